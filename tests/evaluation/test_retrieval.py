"""Retrieval measures on cases worked by hand."""

import numpy as np
import pytest

from hf_slap.evaluation.retrieval import chance_recall, relevance, retrieval_scores


def scores_of(similarity, relevant, **keywords):
    """Embeddings whose products are the given similarities: clips are unit vectors, texts the columns."""
    similarity = np.array(similarity, dtype=float)
    return retrieval_scores(np.eye(len(similarity)), similarity.T, np.array(relevant, bool), **keywords)


def test_two_captions_per_clip_by_hand():
    # Clip 0 has captions 0 and 1, clip 1 has captions 2 and 3.
    similarity = [[0.9, 0.1, 0.5, 0.2],
                  [0.3, 0.4, 0.6, 0.0]]  # fmt: skip
    relevant = [[1, 1, 0, 0], [0, 0, 1, 1]]
    both = {
        way: {name: value for name, value in scores.items() if "interval" not in name}
        for way, scores in scores_of(similarity, relevant, ks=(1, 2)).items()
    }
    # Captions 0 and 2 find their clip first, captions 1 and 3 second.
    assert both["text_to_audio"] == {"recall@1": 0.5, "recall@2": 1.0, "map@10": 0.75, "queries": 4}
    # Clip 0 ranks its captions 1 and 4: (1/1 + 2/4) / 2. Clip 1 ranks its own 1 and 4: the same.
    assert both["audio_to_text"] == {"recall@1": 1.0, "recall@2": 1.0, "map@10": 0.75, "queries": 2}


def test_ties_are_broken_against_the_model():
    flat = scores_of(np.zeros((3, 3)), np.eye(3), ks=(1, 2, 3))
    for way in flat.values():
        assert (way["recall@1"], way["recall@2"], way["recall@3"]) == (0.0, 0.0, 1.0)
        assert way["map@10"] == pytest.approx(1 / 3)


def test_hits_beyond_the_tenth_place_do_not_count_for_the_mean():
    # One clip, twelve texts in falling order; the 5th and the 12th are right: (1/5) / 2.
    texts = np.arange(12.0, 0.0, -1.0)[:, None]
    relevant = np.isin(np.arange(12), [4, 11])
    clips = np.array([[1.0], [-1.0]])  # the second makes every text right for some clip
    way = retrieval_scores(clips, texts, np.stack([relevant, ~relevant]), ks=(4, 5))["audio_to_text"]
    # The second clip hears the order reversed: places 2-7 and 9-10 are right, and two more beyond the tenth.
    second = sum(i / rank for i, rank in enumerate([2, 3, 4, 5, 6, 7, 9, 10], start=1)) / 10
    assert way["map@10"] == pytest.approx((0.1 + second) / 2)
    assert (way["recall@4"], way["recall@5"]) == (0.5, 1.0)


def test_a_caption_of_several_clips_stands_once_and_is_right_for_each():
    texts, relevant = relevance([["a dog", "dog"], ["rain"], ["dog", "a dog"]])
    assert texts == ["a dog", "dog", "rain"]
    assert relevant.tolist() == [[True, True, False], [False, False, True], [True, True, False]]


@pytest.mark.parametrize(
    ("audio", "text", "relevant", "message"),
    [
        (np.eye(2), np.eye(3)[:, :2], np.eye(2, dtype=bool), "one row per clip"),
        (np.array([[np.nan, 0.0]]), np.eye(2), np.ones((1, 2), bool), "audio_embeds: row 0 .* not finite"),
        (np.eye(2), np.eye(2), np.array([[True, False], [True, False]]), "query 1 has no right answer"),
    ],
)
def test_arrays_that_cannot_be_scored(audio, text, relevant, message):
    with pytest.raises(ValueError, match=message):
        retrieval_scores(audio, text, relevant)


def test_recall_as_torchmetrics_counts_it():
    torch = pytest.importorskip("torch")
    retrieval = pytest.importorskip("torchmetrics.retrieval")
    rng = np.random.default_rng(0)
    similarity, relevant = rng.normal(size=(31, 31)), np.eye(31, dtype=bool) | (rng.random((31, 31)) < 0.05)
    way = retrieval_scores(np.eye(31), similarity.T, relevant, ks=(5,))["audio_to_text"]
    queries = torch.arange(31).repeat_interleave(31)
    hit = retrieval.RetrievalHitRate(top_k=5)
    theirs = hit(torch.tensor(similarity).flatten(), torch.tensor(relevant).flatten(), indexes=queries)
    assert way["recall@5"] == pytest.approx(theirs.item(), abs=1e-6)
    low, high = way["recall@5 interval"]
    assert low < way["recall@5"] < high


def test_chance_is_that_of_a_random_order():
    relevant = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], bool)
    # one of four in the first two: 1/2; two of four: 1 - (2/4) * (1/3)
    assert chance_recall(relevant, 2) == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert chance_recall(relevant, 9) == 1.0
