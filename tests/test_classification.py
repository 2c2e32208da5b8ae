"""Targets, mixup and the linear probe."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_slap.classification import classification_loss, fit_linear, label_targets, mixup, read_labels


def test_labels_come_as_lists_or_with_a_separator():
    corpus = Dataset.from_dict({"captions": [["dog; rain"], ["cat"]]})
    assert read_labels(corpus, ";") == [["dog", "rain"], ["cat"]]
    assert read_labels(corpus, None) == [["dog; rain"], ["cat"]]


def test_targets_mark_each_label():
    assert label_targets([["b"], ["a", "c"]], ["a", "b", "c"], "x").tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(ValueError, match=r"x has labels \['z'\] that no training clip has"):
        label_targets([["z"]], ["a"], "x")


def test_mixup_keeps_at_least_half_of_the_clip_and_mixes_targets_alike():
    features = [np.full((5, 2), 1.0, np.float32), np.full((3, 2), 2.0, np.float32), np.full((7, 2), 4.0, np.float32)]
    targets = list(np.eye(3, dtype=np.float32))
    mixed, soft = mixup(features, targets, 0.4, np.random.default_rng(1))
    assert [x.shape for x in mixed] == [(5, 2), (3, 2), (7, 2)]
    for own, (x, y) in enumerate(zip(mixed, soft, strict=True)):
        assert y[own] >= 0.5 and y.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(x, y @ np.array([1.0, 2.0, 4.0]), rtol=1e-6)
    again = mixup(features, targets, 0.4, np.random.default_rng(1))
    assert all(np.array_equal(one, other) for one, other in zip(mixed, again[0], strict=True))
    assert mixup(features, targets, 0.0, np.random.default_rng(1))[0][1] is features[1]


def test_loss_of_mixed_targets_is_the_mix_of_losses():
    logits = torch.tensor([[1.0, 0.0]])
    right, wrong = (classification_loss(logits, torch.tensor([t]), False).item() for t in ([1.0, 0.0], [0.0, 1.0]))
    assert right == pytest.approx(math.log(1 + math.exp(-1)))
    assert classification_loss(logits, torch.tensor([[0.75, 0.25]]), False).item() == pytest.approx(0.75 * right + 0.25 * wrong)  # fmt: skip
    assert classification_loss(torch.zeros(1, 3), torch.ones(1, 3), True).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_probe_is_the_optimum_that_scikit_learn_finds(multi_label):
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(61, 5)) * [1, 2, 3, 4, 5] + 7.0
    kind = (x[:, 0] + x[:, 1] / 2 + rng.normal(size=61) > 8).astype(int) + (x[:, 2] > 8)
    targets = np.eye(3)[kind]
    l2 = 0.03
    weight, bias, trail = fit_linear(torch.tensor(x), torch.tensor(targets), multi_label, l2)
    assert trail[-1] < trail[0]
    ours = x @ weight.numpy().T + bias.numpy()
    standard = (x - x.mean(0)) / x.std(0, ddof=1)
    if multi_label:  # the mean over classes divides each class's loss by their number
        models = [linear.LogisticRegression(C=1 / (len(x) * l2 * 3), tol=1e-8, max_iter=5000) for _ in range(3)]
        theirs = np.stack([m.fit(standard, t).decision_function(standard) for m, t in zip(models, targets.T, strict=True)], 1)  # fmt: skip
    else:
        model = linear.LogisticRegression(C=1 / (len(x) * l2), tol=1e-8, max_iter=5000).fit(standard, kind)
        theirs = model.decision_function(standard)
        ours, theirs = ours - ours.mean(1, keepdims=True), theirs - theirs.mean(1, keepdims=True)
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
