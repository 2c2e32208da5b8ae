"""Scores over time: by hand and against scikit-learn."""

import numpy as np
import pytest

from hf_slap.evaluation.events import event_scores, frame_targets, localisation_scores

LABELS = ["dog", "rain"]


def test_a_frame_is_active_where_its_middle_is():
    events = [{"label": "dog", "start": 0.5, "end": 1.2}, {"label": "bell", "start": 0, "end": 9}]
    target = frame_targets(events, LABELS, frames=5, seconds_per_frame=0.4)  # middles 0.2 0.6 1.0 1.4 1.8
    assert target[:, 0].tolist() == [False, True, True, False, False] and not target[:, 1].any()


def test_segments_by_hand():
    """3 s in frames of 0.5 s; the dog touches seconds 0 and 1, the model hears it in 1 and 2."""
    scores = np.full((6, 2), -1.0)
    scores[3, 0], scores[5, 0], scores[0, 1] = 3.0, 2.0, 0.5
    events = [{"label": "dog", "start": 0.9, "end": 1.1}, {"label": "rain", "start": 0.0, "end": 1.0}]
    result = event_scores([scores], [events], LABELS, seconds_per_frame=0.5, resamples=5)
    # said: dog 1, dog 2, rain 0; true: dog 0, dog 1, rain 0 -> two hits of three and three
    assert result.segment_f1 == pytest.approx(2 * 2 / (3 + 3)) and result.segments == 3
    assert result.per_class == {"dog": pytest.approx((1 + 2 / 3) / 2), "rain": 1.0}


@pytest.mark.filterwarnings("error:Mean of empty slice")
def test_clips_without_an_event_count_as_silence():
    """Of two clips of one second the second is silent; draws that have only this one tell nothing."""
    dog = [{"label": "dog", "start": 0.0, "end": 1.0}]
    right, wrong = ([np.array([[a]]), np.array([[b]])] for a, b in ((2.0, 1.0), (1.0, 2.0)))
    assert event_scores(right, [dog, []], ["dog"], 1.0).segment_map == 1.0
    result = event_scores(wrong, [dog, []], ["dog"], 1.0)
    assert (result.segment_map, result.low, result.high, result.clips) == (0.5, 0.5, 1.0, 2)


def test_f1_and_map_of_segments_as_scikit_learn_counts_them():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(n, 2)) for n in (7, 11)]  # frames of one second are the segments themselves
    events = [
        [{"label": label, "start": s + 0.1, "end": s + 1.9} for label, s in zip(LABELS, its, strict=True)]
        for its in ((0, 3), (5, 2))
    ]
    result = event_scores(clips, events, LABELS, seconds_per_frame=1.0, resamples=20)
    truth = np.zeros((18, 2), dtype=bool)
    truth[[0, 1], 0] = truth[[3, 4], 1] = truth[[7 + 5, 7 + 6], 0] = truth[[7 + 2, 7 + 3], 1] = True
    scores = np.concatenate(clips)
    assert result.segment_f1 == pytest.approx(metrics.f1_score(truth, scores >= 0, average="micro"))
    assert result.segment_map == pytest.approx(metrics.average_precision_score(truth, scores, average="macro"))
    assert result.low <= result.segment_map <= result.high and result.clips == 2


def test_localisation_as_scikit_learn_counts_it():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=n).round(1) for n in (13, 17, 19)]  # with ties
    inside = [rng.random(len(s)) < 0.4 for s in scores]
    result = localisation_scores(scores, inside)
    assert result.auroc == pytest.approx(
        np.mean([metrics.roc_auc_score(t, s) for s, t in zip(scores, inside, strict=True)])
    )
    assert result.low <= result.auroc <= result.high and result.queries == 3


def test_a_moment_outside_with_the_same_score_is_no_hit():
    flat = localisation_scores([np.zeros(4)], [np.array([0, 1, 1, 0])])
    assert (flat.auroc, flat.pointing, flat.ap_chance) == (0.5, 0.0, 0.5)
    found = localisation_scores([np.array([0.0, 2.0, 1.0])], [np.array([0, 1, 0])])
    assert (found.auroc, found.pointing, found.ap) == (1.0, 1.0, 1.0)


def test_texts_that_are_heard_always_or_never_are_refused():
    with pytest.raises(ValueError, match="query 0 is heard always"):
        localisation_scores([np.zeros(2)], [np.ones(2)])
    with pytest.raises(ValueError, match="at least one query"):
        localisation_scores([], [])
