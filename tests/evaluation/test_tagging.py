"""Average precision by hand, and against scikit-learn."""

import numpy as np
import pytest

from hf_slap.evaluation.tagging import average_precision, micro_f1, tagging_scores


def test_average_precision_by_hand():
    # in order of score: right, wrong, right -> (1/1 + 2/3) / 2
    assert average_precision(np.array([0.9, 0.5, 0.1]), np.array([1, 0, 1], bool)) == pytest.approx(5 / 6)


def test_a_tie_is_broken_against_the_model():
    assert average_precision(np.zeros(3), np.array([1, 0, 0], bool)) == pytest.approx(1 / 3)


def test_equal_to_scikit_learn_where_scores_differ():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, target = rng.normal(size=(47, 5)), rng.random((47, 5)) < 0.3
    result = tagging_scores(scores, target, list("abcde"))
    assert result.mean_average_precision == pytest.approx(
        metrics.average_precision_score(target, scores, average="macro")
    )
    assert result.low <= result.mean_average_precision <= result.high
    assert result.chance == pytest.approx(target.mean())


def test_map_as_torchmetrics_counts_it():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    scores, target = rng.random((53, 4)), rng.random((53, 4)) < 0.4
    theirs = classification.multilabel_average_precision(torch.tensor(scores), torch.tensor(target).int(), 4)
    assert tagging_scores(scores, target, list("abcd")).mean_average_precision == pytest.approx(theirs.item(), abs=1e-6)


def test_f1_of_the_first_answer_by_hand():
    scores = np.array([[3, 1, 0], [0, 2, 1], [1, 1, 0]])
    target = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]])  # right, wrong, a tie with a class it does not have
    assert micro_f1(scores, target) == pytest.approx(2 * 1 / (3 + 4))


def test_a_class_that_never_occurs_is_not_counted():
    result = tagging_scores(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1, 0], [0, 0]]), ["a", "b"])
    assert (result.classes, result.mean_average_precision, result.per_class) == (1, 1.0, {"a": 1.0})


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    [
        (np.zeros((2, 3)), np.ones((2, 2)), "must be .clips, 2 labels."),
        (np.array([[0.0, np.nan]]), np.ones((1, 2)), "scores of clip 0 are not finite"),
        (np.zeros((2, 2)), np.zeros((2, 2)), "not one clip has a class"),
    ],
)
def test_what_cannot_be_measured_is_refused(scores, target, message):
    with pytest.raises(ValueError, match=message):
        tagging_scores(scores, target, ["a", "b"])
