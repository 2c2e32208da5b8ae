"""The objectives of pretraining: masks, the teacher, and losses worked by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from hf_slap.modeling.losses_slap import contrastive_loss, sigmoid_contrastive_loss
from hf_slap.objectives import (
    AudioTeacher,
    clip_of_masked_patch,
    draw_patch_mask,
    freeze_prototypes,
    global_contrastive_loss,
    keep_trainable,
    model_inputs,
    pretraining_losses,
)

ALL = {"contrastive": 1.0, "masked": 1.0, "caption": 0.5}


# ------------------------------------------------------------------------------------------------------ masks
@pytest.mark.parametrize("kind", ["random", "block"])
@pytest.mark.parametrize(
    ("columns", "rows", "ratio", "masked"),
    [(7, 4, 0.5, 14), (1, 4, 0.5, 2), (187, 4, 0.3, 224), (1, 2, 0.01, 1), (1, 3, 0.99, 2), (5, 4, 0.0, 0)],
)
def test_the_share_of_masked_patches_is_exact(kind, columns, rows, ratio, masked):
    for seed in range(20):
        mask = draw_patch_mask(columns, rows, ratio, np.random.default_rng(seed), kind)
        assert mask.shape == (columns * rows,) and mask.dtype == bool
        assert mask.sum() == masked


def test_a_single_patch_is_left_to_the_student():
    assert not draw_patch_mask(1, 1, 0.5, np.random.default_rng(0)).any()


def test_a_mask_depends_on_its_generator_alone():
    first, again, other = (draw_patch_mask(31, 4, 0.5, np.random.default_rng(s)) for s in (5, 5, 6))
    assert (first == again).all() and (first != other).any()


def test_every_patch_is_masked_alike_often():
    rng = np.random.default_rng(0)
    share = np.mean([draw_patch_mask(5, 4, 0.5, rng) for _ in range(4000)], axis=0)
    assert np.abs(share - 0.5).max() < 0.04


def test_blocks_hang_together():
    def neighbours_in_time(kind):
        rng = np.random.default_rng(1)
        masks = [draw_patch_mask(50, 4, 0.5, rng, kind).reshape(50, 4) for _ in range(50)]
        return np.mean([mask[1:][mask[:-1]].mean() for mask in masks])

    assert neighbours_in_time("random") == pytest.approx(0.5, abs=0.02)
    assert neighbours_in_time("block") > 0.75


@pytest.mark.parametrize(("ratio", "kind", "message"), [(1.0, "random", "0 <= ratio < 1"), (0.5, "square", "block")])
def test_masks_that_cannot_be(ratio, kind, message):
    with pytest.raises(ValueError, match=message):
        draw_patch_mask(3, 4, ratio, np.random.default_rng(0), kind)


# ---------------------------------------------------------------------------------------------------- teacher
def test_the_teacher_is_the_stated_average_after_three_steps():
    model = Student()
    model.set_all(1.0)
    teacher = AudioTeacher(model)
    for value, momentum in ((2.0, 0.5), (4.0, 0.75), (0.0, 0.9)):
        model.set_all(value)
        teacher.update(model, momentum)
    # 1 -> 0.5 x 1 + 0.5 x 2 = 1.5 -> 0.75 x 1.5 + 0.25 x 4 = 2.125 -> 0.9 x 2.125 = 1.9125
    for parameter in teacher.parameters():
        assert torch.allclose(parameter, torch.full_like(parameter, 1.9125))


def test_the_teacher_receives_no_gradient_and_gives_none():
    model = Student()
    teacher = AudioTeacher(model)
    batch = small_batch()
    features = teacher(batch["teacher_features"], batch["clip_frames"], batch["patch_mask"])
    assert not features.requires_grad
    outputs = model(**model_inputs(batch, ALL))
    pretraining_losses(outputs, batch, ALL, teacher.targets(features, 0.04))["total"].backward()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_teacher_hears_the_masked_patches_and_the_student_does_not():
    model = Student()
    batch = small_batch()
    louder = batch["teacher_features"].clone()
    louder[: 16 * 3] += 1.0  # the first clip: 3 columns of 1 row, of which the mask covers the first two
    mask = batch["patch_mask"]
    teacher = AudioTeacher(model)
    before = teacher(batch["teacher_features"], batch["clip_frames"], mask)
    after = teacher(louder, batch["clip_frames"], mask)
    assert not torch.allclose(before[:2], after[:2])
    assert torch.equal(before[2:], after[2:])
    student_before = model(**model_inputs(batch, ALL)).prototype_features
    student_after = model(**model_inputs({**batch, "input_features": louder}, ALL)).prototype_features
    assert torch.equal(student_before, student_after)


def test_a_teacher_of_a_bfloat16_model_keeps_float32_weights():
    teacher = AudioTeacher(Student().to(torch.bfloat16), centering="softmax")
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert "centering.center" in teacher.state_dict()
    with pytest.raises(ValueError, match="sinkhorn"):
        AudioTeacher(Student(), centering="mean")


def test_frozen_prototypes_stay_exactly_where_they_are():
    model = Student()
    optimizer = torch.optim.AdamW([{"params": model.parameters(), "weight_decay": 0.0}], lr=0.1)
    before = model.prototype_head.prototypes.detach().clone()
    for step in range(3):
        features, prototypes = model.prototype_head(torch.randn(5, 3, generator=seeded(step)))
        (features @ prototypes.T).square().sum().backward()
        freeze_prototypes(model, step, frozen_steps=2)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(model.prototype_head.prototypes, before) == (step < 2)


# ----------------------------------------------------------------------------------------------------- losses
def test_masked_patches_know_their_clip():
    mask = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1], dtype=torch.bool)  # 2 + 4 columns of 2 rows
    assert clip_of_masked_patch([4, 8], mask).tolist() == [0, 0, 1, 1, 1, 1]


def test_on_one_process_the_global_contrastive_loss_is_the_contrastive_loss():
    audio, text = (nn.functional.normalize(torch.randn(5, 3, generator=seeded(s)), dim=-1) for s in (0, 1))
    groups = torch.tensor([[3], [1], [3], [7], [7]])
    ignore = groups == groups.T
    expected = contrastive_loss(audio, text, torch.tensor(9.0), ignore)
    assert torch.allclose(global_contrastive_loss(audio, text, torch.tensor(9.0), groups), expected)


def test_clips_with_the_same_caption_are_not_each_others_negatives():
    pairs = torch.eye(2)
    one = torch.tensor(1.0)
    different = global_contrastive_loss(pairs, pairs, one, torch.tensor([[1], [2]]))
    assert different.item() == pytest.approx(math.log(1 + 1 / math.e))
    assert global_contrastive_loss(pairs, pairs, one, torch.tensor([[1], [1]])).item() == 0.0


def test_on_one_process_the_global_sigmoid_loss_is_the_sigmoid_loss():
    audio, text = (nn.functional.normalize(torch.randn(5, 3, generator=seeded(s)), dim=-1) for s in (0, 1))
    groups, scale, bias = torch.tensor([[3], [1], [3], [7], [7]]), torch.tensor(9.0), torch.tensor(-4.0)
    expected = sigmoid_contrastive_loss(audio, text, scale, bias, groups == groups.T)
    assert torch.allclose(global_contrastive_loss(audio, text, scale, groups, bias, "sigmoid"), expected)
    for kind in ("softmax", "hinge"):
        with pytest.raises(ValueError, match="a bias with sigmoid only"):
            global_contrastive_loss(audio, text, scale, groups, bias, kind)


def test_the_total_is_the_weighted_sum_of_the_parts():
    model, batch = Student(), small_batch()
    targets = AudioTeacher(model).targets(nn.functional.normalize(torch.randn(3, 3, generator=seeded(2))), 0.04)
    losses = pretraining_losses(model(**model_inputs(batch, ALL)), batch, ALL, targets)
    expected = losses["contrastive"] + losses["masked"] + 0.5 * losses["caption"]
    assert set(losses) == {"contrastive", "masked", "caption", "total"}
    assert torch.equal(losses["total"], expected)


@pytest.mark.parametrize("off", ["contrastive", "masked", "caption"])
def test_a_part_of_weight_zero_is_neither_computed_nor_trained(off):
    model, batch = Student(), small_batch()
    weights = {**ALL, off: 0.0}
    keep_trainable(model, weights)
    inputs = model_inputs(batch, weights)
    needs = {"contrastive": "input_ids", "masked": "patch_mask", "caption": "labels"}
    assert needs[off] not in inputs and all(needs[part] in inputs for part in needs if part != off)
    targets = AudioTeacher(model).targets(nn.functional.normalize(torch.randn(3, 3, generator=seeded(2))), 0.04)
    losses = pretraining_losses(model(**inputs), batch, weights, targets)
    assert off not in losses
    losses["total"].backward()
    without_gradient = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without_gradient == [], "DistributedDataParallel stops at parameters that no loss reaches"
    assert any(not p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------------------------------------------- helpers
def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Audio(nn.Module):
    """One row of patches, 2 mel bins: a patch is the mean of its 16 frames, a clip the mean of its
    patches."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(2, 3, bias=False)
        self.mask_token = nn.Parameter(torch.randn(3))
        self.pooler = nn.Linear(3, 3)

    def forward(self, input_features, clip_frames, patch_mask=None):
        dense = self.embed(input_features.reshape(-1, 16, 2).mean(1))
        if patch_mask is not None:
            dense = torch.where(patch_mask[:, None], self.mask_token, dense)
        clips = dense.split([frames // 16 for frames in clip_frames])
        padded = nn.utils.rnn.pad_sequence(clips, batch_first=True)
        real = nn.utils.rnn.pad_sequence([torch.ones(len(c), dtype=torch.bool) for c in clips], batch_first=True)
        pooled = self.pooler(torch.stack([clip.mean(0) for clip in clips]))
        return SimpleNamespace(last_hidden_state=padded, attention_mask=real, pooler_output=pooled)


class Prototypes(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Linear(3, 3)
        self.prototypes = nn.Parameter(torch.randn(5, 3))

    def forward(self, hidden):
        return nn.functional.normalize(self.mlp(hidden), dim=-1), nn.functional.normalize(self.prototypes, dim=-1)


class Student(nn.Module):
    """The outer shape of `SlapForPreTraining`, small enough to work out by hand."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(num_prototypes=5)
        self.slap = nn.Module()
        self.slap.audio_model = Audio()
        self.slap.text_model = nn.Embedding(11, 3)
        self.slap.logit_scale = nn.Parameter(torch.ones(1))
        self.decoder = nn.Linear(3, 3)
        self.lm_head = nn.Linear(3, 11)
        self.prototype_head = Prototypes()

    @torch.no_grad()
    def set_all(self, value):
        for parameter in self.parameters():
            parameter.fill_(value)

    def forward(self, input_features, clip_frames, input_ids=None, attention_mask=None, patch_mask=None, labels=None):
        clean = self.slap.audio_model(input_features, clip_frames)
        out = SimpleNamespace(audio_embeds=nn.functional.normalize(clean.pooler_output, dim=-1))
        if input_ids is not None:
            out.text_embeds = nn.functional.normalize(self.slap.text_model(input_ids).mean(1), dim=-1)
            out.logit_scale, out.logit_bias = self.slap.logit_scale.exp().squeeze(), None
        if patch_mask is not None:
            masked = self.slap.audio_model(input_features, clip_frames, patch_mask)
            hidden = masked.last_hidden_state[masked.attention_mask][patch_mask]
            out.prototype_features, out.prototypes = self.prototype_head(hidden)
        if labels is not None:
            words = self.decoder(clean.last_hidden_state.mean(1))
            out.caption_logits = self.lm_head(words)[:, None].expand(-1, labels.shape[1], -1)
        return out


def small_batch():
    features = torch.randn(16 * 5, 2, generator=seeded(3))
    return {
        "input_features": features,
        "teacher_features": features,
        "clip_frames": [48, 32],
        "clip_tokens": [3, 2],
        "patch_mask": torch.tensor([True, True, False, True, False]),
        "input_ids": torch.tensor([[1, 2], [3, 4]]),
        "attention_mask": torch.ones(2, 2, dtype=torch.long),
        "labels": torch.tensor([[5, 6, 7], [8, 9, -100]]),
        "groups": torch.tensor([[1], [2]]),
    }
