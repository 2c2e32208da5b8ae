"""Retrieval measures on cases worked by hand."""

import numpy as np
import pytest

from hf_slap.evaluation.retrieval import relevance, retrieval_scores


def scores_of(similarity, relevant, **keywords):
    """Embeddings whose products are the given similarities: clips are unit vectors, texts the columns."""
    similarity = np.array(similarity, dtype=float)
    return retrieval_scores(np.eye(len(similarity)), similarity.T, np.array(relevant, bool), **keywords)


def test_two_captions_per_clip_by_hand():
    # Clip 0 has captions 0 and 1, clip 1 has captions 2 and 3.
    similarity = [[0.9, 0.1, 0.5, 0.2],
                  [0.3, 0.4, 0.6, 0.0]]  # fmt: skip
    relevant = [[1, 1, 0, 0], [0, 0, 1, 1]]
    both = scores_of(similarity, relevant, ks=(1, 2))
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
