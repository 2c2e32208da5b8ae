"""Targets, mixup and the linear probe."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_slap.classification import (
    LabelledClips,
    MixedRef,
    classification_loss,
    draw_pairs,
    fit_linear,
    label_targets,
    mixup,
    pack_clips,
    read_labels,
)
from hf_slap.data import ClipRef, SkippedClip, TrainingClip


def test_labels_come_as_lists_or_with_a_separator():
    corpus = Dataset.from_dict({"captions": [["dog; rain"], ["cat"]]})
    assert read_labels(corpus, ";") == [["dog", "rain"], ["cat"]]
    assert read_labels(corpus, None) == [["dog; rain"], ["cat"]]


def test_targets_mark_each_label():
    assert label_targets([["b"], ["a", "c"]], ["a", "b", "c"], "x").tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(ValueError, match=r"x has labels \['z'\] that no training clip has"):
        label_targets([["z"]], ["a"], "x")


def test_pairs_are_of_the_batch_and_a_clip_keeps_at_least_half():
    batch = [ClipRef(2, 5 + place, row) for place, row in enumerate((3, 1, 4, 15, 9))]
    pairs = draw_pairs(batch, 0.4, seed=1)
    assert [pair.clip for pair in pairs] == batch and sorted(pair.over for pair in pairs) == sorted(batch)
    assert all(0.5 <= pair.share <= 1 for pair in pairs) and len({pair.share for pair in pairs}) == 5
    assert pairs == draw_pairs(batch, 0.4, seed=1) != draw_pairs(batch, 0.4, seed=2)
    assert draw_pairs(batch, 0.0, seed=1) == [MixedRef(ref) for ref in batch]


def test_mixup_repeats_or_cuts_the_other_clip():
    one, other = np.zeros((5, 1), np.float32), np.float32([[1], [2], [3]])
    assert mixup(one, other, 0.5).ravel().tolist() == [0.5, 1.0, 1.5, 0.5, 1.0]
    assert mixup(other, one, 0.75).ravel().tolist() == [0.75, 1.5, 2.25]


class ThreeClips:
    """As `PretrainDataset`: clip 2 cannot be heard, and over clip 1 the waveform of clip 0 was laid."""

    def __getitem__(self, ref):
        self.asked.append(ref)
        if ref.index == 2:
            return SkippedClip("broken", "noise")
        features = np.full((3 + ref.index, 2), 1.0 + ref.index, np.float32)
        mixed_in = (0,) if ref.index == 1 else ()
        return TrainingClip(str(ref.index), "", features, features, np.zeros(0, bool), 0, 1.0, mixed_in=mixed_in)


def test_features_and_targets_are_mixed_alike_and_each_clip_is_read_once():
    clips = ThreeClips()
    clips.asked = []
    refs = [ClipRef(0, row, row) for row in range(3)]
    batch = [MixedRef(refs[0], refs[1], 0.75), MixedRef(refs[1], refs[2], 0.75), MixedRef(refs[2], refs[0], 0.75)]
    targets = np.eye(3, dtype=np.float32)
    first, second, broken = LabelledClips(clips, targets, multi_label=True).__getitems__(batch)
    assert first.features.tolist() == [[1.25, 1.25]] * 3
    assert first.target.tolist() == [1.0, 0.25, 0.0]  # clip 1 sounds like classes 0 and 1
    assert second.target.tolist() == [1.0, 1.0, 0.0] and second.features.max() == 2.0  # its partner cannot be heard
    assert broken.id == "broken" and sorted(clips.asked) == refs
    (halves,) = LabelledClips(clips, targets, multi_label=False).__getitems__([MixedRef(refs[1])])
    assert halves.target.tolist() == [0.5, 0.5, 0.0]
    packed = pack_clips([first, second, broken])
    assert packed["input_features"].shape == (7, 2) and packed["clip_frames"] == [3, 4]
    assert packed["skipped"] == [("broken", "noise")] and packed["audio_seconds"] == 2.0
    with pytest.raises(ValueError, match="not one clip of a batch can be used: .*broken"):
        pack_clips([broken])


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
