"""Zero-shot accuracy on cases worked by hand."""

import numpy as np
import pytest

from hf_slap.evaluation.zero_shot import ClassRow, zero_shot_scores

LABELS = ["dog", "rain", "cat"]


def test_accuracy_and_classes_by_hand():
    logits = [[3, 1, 2], [0, 1, 2], [0, 2, 5], [1, 4, 2], [9, 8, 7]]
    scores = zero_shot_scores(np.array(logits), np.array([0, 0, 0, 1, 1]), LABELS)
    assert scores.accuracy == pytest.approx(2 / 5) and (scores.clips, scores.classes) == (5, 3)
    assert scores.mean_class_accuracy == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert scores.chance == pytest.approx(1 / 3)
    assert scores.per_class == [ClassRow("dog", 3, pytest.approx(1 / 3), "cat"), ClassRow("rain", 2, 0.5, "dog")]
    assert scores.low <= scores.accuracy <= scores.high
    assert scores.confusion.tolist() == [[1, 0, 2], [1, 1, 0], [0, 0, 0]]  # what is (row) taken for what (column)
    assert scores.macro_f1 == pytest.approx((2 / 5 + 2 / 3) / 2)


def test_confusion_and_f1_as_scikit_learn_counts_them():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(97, 3)), rng.integers(0, 3, 97)
    scores = zero_shot_scores(logits, target, LABELS)
    assert (scores.confusion == metrics.confusion_matrix(target, logits.argmax(1))).all()
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(target, logits.argmax(1), average="macro"))


def test_a_tie_is_no_hit():
    assert zero_shot_scores(np.zeros((4, 3)), np.array([0, 1, 2, 0]), LABELS).accuracy == 0.0


def test_the_interval_has_the_width_of_a_binomial():
    hits = np.arange(400) < 300
    logits = np.stack([hits, ~hits, np.zeros(400)], axis=1).astype(float)
    scores = zero_shot_scores(logits, np.zeros(400, dtype=int), LABELS)
    width = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert scores.high - 0.75 == pytest.approx(width, rel=0.2) and 0.75 - scores.low == pytest.approx(width, rel=0.2)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (np.zeros((0, 3)), [], "at least one clip"),
        (np.zeros((2, 2)), [0, 1], "3 labels"),
        (np.array([[0, np.inf, 0]]), [0], "clip 0 are not finite"),
        (np.zeros((1, 3)), [3], "run from 3 to 3; there are 3 labels"),
    ],
)
def test_arrays_that_cannot_be_scored(logits, target, message):
    with pytest.raises(ValueError, match=message):
        zero_shot_scores(logits, np.array(target, dtype=int), LABELS)
