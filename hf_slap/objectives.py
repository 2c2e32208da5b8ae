"""What pretraining optimises: 1.0 contrastive + 1.0 masked prediction + 0.5 captioning, and the EMA teacher.

Letters: n masked patches, K prototypes, W width of their bottleneck, B clips of this rank, D joint width.

The contrastive and the caption loss read the clean pass of the audio encoder, masked prediction reads a
second pass with half of the patches replaced by the mask token. A part whose weight is 0 is not computed at
all, so every row of the paper's ablation table is one number in the configuration.

Paper: SLAP, section 2: symmetric InfoNCE; "teacher reads unmasked patches; student reads patches masked at
random with ratio 0.5". Not stated: what else `prototypes` needs; chosen as in DINOv2 ViT-L, whose unusual momentum
of 0.994 the paper shares.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import (
    gather_rows,
    gather_with_gradient,
    rank,
    rows_per_rank,
    share_of_mean,
    world_size,
)
from .modeling.configuration_slap import CONTRASTIVE_KINDS
from .modeling.losses_slap import at_least_float32, caption_loss, sigmoid_contrastive_loss
from .prototypes import CENTERINGS, PrototypeTargets, SoftmaxCentering, masked_prediction_loss, sinkhorn_offsets

MASK_KINDS = ("random", "block")
PARTS = ("contrastive", "masked", "caption")


# ------------------------------------------------------------------------------------------------------ masks
def draw_patch_mask(
    columns: int, rows: int, ratio: float, rng: np.random.Generator, kind: str = "random"
) -> np.ndarray:
    """Which patches of one clip the student does not see.

    Args:
        columns: patch columns of the clip (time).
        rows: patches in a column (frequency).
        ratio: share to mask, 0 <= ratio < 1. The number of masked patches is exact: round(ratio x patches),
            but with two patches or more at least one is masked (unless ratio is 0) and one is left.
        rng: the clip's own generator.
        kind: "random": every patch alike; "block": rectangles of random height, width and place until the
            share is reached, the last one cut to fit.
    Returns:
        (columns * rows,) bool, time-major: all rows of column 0, then those of column 1.
    Raises:
        ValueError: a ratio outside 0 <= ratio < 1, or an unknown kind.
    Paper: random, ratio 0.5.
    """
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"mask ratio {ratio} is outside 0 <= ratio < 1; the paper's is 0.5")
    if kind not in MASK_KINDS:
        raise ValueError(f"unknown mask kind {kind!r}; accepted are {MASK_KINDS}")
    patches = columns * rows
    count = round(ratio * patches)
    if ratio > 0 and patches >= 2:
        count = min(max(count, 1), patches - 1)
    mask = np.zeros(patches, dtype=bool)
    if kind == "random":
        mask[rng.permutation(patches)[:count]] = True
        return mask
    grid = mask.reshape(columns, rows)
    while (missing := count - int(mask.sum())) > 0:
        height = int(rng.integers(1, rows + 1))
        width = int(rng.integers(1, max(2, missing // height + 1)))
        left = int(rng.integers(0, columns - min(width, columns) + 1))
        low = int(rng.integers(0, rows - height + 1))
        block = np.zeros_like(grid)
        block[left : left + width, low : low + height] = True
        new = np.flatnonzero(block.reshape(-1) & ~mask)
        mask[new[:missing]] = True
    return mask


# ---------------------------------------------------------------------------------------------------- teacher
class AudioTeacher(nn.Module):
    """A slow copy of the audio encoder and the prototype head: training state, never part of the published
    weights.

    Args:
        model: the `SlapForPreTraining` to copy, not wrapped.
        centering: "sinkhorn" or "softmax".
    Raises:
        ValueError: an unknown centring.
    Paper: EMA teacher reading unmasked patches. Weights in float32 whatever the student computes in.
    """

    def __init__(self, model: nn.Module, centering: str = "sinkhorn"):
        super().__init__()
        if centering not in CENTERINGS:
            raise ValueError(f"unknown centering {centering!r}; accepted are {CENTERINGS}")
        self.audio_model = copy.deepcopy(model.slap.audio_model)
        self.prototype_head = copy.deepcopy(model.prototype_head)
        self.centering = SoftmaxCentering(model.config.num_prototypes) if centering == "softmax" else None
        for parameter in self.parameters():
            parameter.data = at_least_float32(parameter.data)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "AudioTeacher":
        return super().train(False)  # a teacher has no dropout

    @torch.no_grad()
    def forward(self, features: Tensor, clip_frames: list[int], patch_mask: Tensor) -> Tensor:
        """The features of the patches that the student does not see.

        Args:
            features: (frames of all clips, mel bins), without masks of any kind (no SpecAugment either).
            clip_frames: frames of each clip.
            patch_mask: (patches of all clips,) bool.
        Returns:
            (n, W), unit norm, in the order of the packed patches.
        """
        output = self.audio_model(features, clip_frames=clip_frames)
        dense = output.last_hidden_state[output.attention_mask]  # (patches, width)
        return self.prototype_head(dense[patch_mask])[0]

    @torch.no_grad()
    def targets(self, features: Tensor, temperature: float) -> PrototypeTargets:
        """What the student is to predict; call once in a step, for the features of all its patches.

        Args:
            features: (n, W), from `forward`; n may differ between ranks and be 0.
            temperature: of the teacher.
        """
        prototypes = F.normalize(self.prototype_head.prototypes, dim=-1)
        offsets = (self.centering or sinkhorn_offsets)(features, prototypes, temperature)
        return PrototypeTargets(features, prototypes, offsets, temperature)

    @torch.no_grad()
    def update(self, model: nn.Module, momentum: float) -> None:
        """teacher = momentum x teacher + (1 - momentum) x student, parameter by parameter."""
        for mine, its in (
            (self.audio_model, model.slap.audio_model),
            (self.prototype_head, model.prototype_head),
        ):
            for old, new in zip(mine.parameters(), its.parameters(), strict=True):
                old.lerp_(new.detach().to(old.dtype), 1.0 - momentum)


def freeze_prototypes(model: nn.Module, step: int, frozen_steps: int) -> None:
    """Call after backward: in the first steps the prototypes keep their places (their gradient is zeroed).

    Zero rather than None, so that the optimizer's state has the same shape from the first step on; they have
    no weight decay (`optimization.NO_DECAY`), so they stay exactly where they are.

    Paper: Not stated. DINO freezes its last layer for the first epoch.
    """
    if step < frozen_steps:
        for name, parameter in model.named_parameters():
            if "prototypes" in name.split(".") and parameter.grad is not None:
                parameter.grad.zero_()


# ----------------------------------------------------------------------------------------------------- losses
def global_contrastive_loss(
    audio_embeds: Tensor,
    text_embeds: Tensor,
    scale: Tensor,
    groups: Tensor,
    bias: Tensor | None = None,
    kind: str = "softmax",
    reduction: str = "mean",
) -> Tensor:
    """The contrastive loss of `modeling.losses_slap` against the clips of all ranks.

    Each rank scores its own rows against everybody's columns: B x (B of all ranks) similarities, twice for softmax,
    not the square.

    Args:
        audio_embeds: (B, D), unit norm, of this rank; B may differ between ranks.
        text_embeds: (B, D), unit norm; row i belongs to audio row i.
        scale: (), the multiplier itself.
        groups: (B, G), int64, see `same_group`: such clips must not be each other's negatives.
        bias: (), added to the logits of the sigmoid loss; None adds nothing.
        kind: "softmax" (InfoNCE) or "sigmoid".
        reduction: "mean", or "none": the cost of each clip by itself, whose mean over all ranks' clips is the loss.
    Returns:
        (), or (B,) for "none"; float32, in nats (of a clip). The mean is times this rank's share
        (`distributed.share_of_mean`): the mean over ranks is the loss of the global batch, and so is the mean of the
        gradients.
    Raises:
        ValueError: an unknown kind, or a bias for softmax, which no bias can change.
    Paper: L_CLAP, with the gather across ranks assumed, as everywhere since CLIP.
    """
    if kind not in CONTRASTIVE_KINDS or (kind == "softmax" and bias is not None):
        raise ValueError(f"kind={kind!r}, bias={bias}; accepted are {CONTRASTIVE_KINDS}, a bias with sigmoid only")
    audio, text = at_least_float32(audio_embeds), at_least_float32(text_embeds)
    first = sum(rows_per_rank(groups)[: rank()])
    partner = torch.arange(first, first + len(groups), device=groups.device)  # (B,), the column of each row's partner
    everyone = gather_rows(groups)
    ignore = same_group(groups, everyone)  # (B, all)
    ignore[torch.arange(len(groups), device=groups.device), partner] = False
    if kind == "sigmoid":
        costs = sigmoid_contrastive_loss(audio, gather_with_gradient(text), scale, bias, ignore, first, "none")
        return costs if reduction == "none" else costs.sum() * (world_size() / len(everyone))

    def cost(rows: Tensor, columns: Tensor) -> Tensor:
        logits = (scale * (rows @ columns.T)).masked_fill(ignore, -torch.inf)  # (B, all)
        return F.cross_entropy(logits, partner, reduction="none" if reduction == "none" else "sum")

    total = cost(audio, gather_with_gradient(text)) + cost(text, gather_with_gradient(audio))
    return total / 2 if reduction == "none" else total * (world_size() / (2 * len(everyone)))


def same_group(groups: Tensor, others: Tensor) -> Tensor:
    """(B, C) bool: which clips have a group in common, in whichever place, such as the clip itself or its caption, from
    their groups (B, G) and (C, G)."""
    common = [(groups[:, :, None] == column).any(1) for column in others.T]  # G times (B, C)
    return torch.stack(common).any(0)


def clip_of_masked_patch(clip_tokens: list[int], patch_mask: Tensor) -> Tensor:
    """(n,) int64: the clip of every masked patch, from the patches of each clip and the packed mask."""
    patches = torch.tensor(clip_tokens, device=patch_mask.device)
    return torch.arange(len(patches), device=patch_mask.device).repeat_interleave(patches)[patch_mask]


def model_inputs(batch: Mapping, weights: Mapping[str, float]) -> dict:
    """The arguments of `SlapForPreTraining` that the parts with a weight need; what is left out is not
    computed."""
    names = ["input_features", "clip_frames"]
    names += ["input_ids", "attention_mask"] * bool(weights["contrastive"])
    names += ["patch_mask"] * bool(weights["masked"]) + ["labels"] * bool(weights["caption"])
    names += ["caption_parallel"] * bool(weights["caption"] and "caption_parallel" in batch)
    return {name: batch[name] for name in names}


def masked_clips(batch: Mapping) -> int:
    """Clips with a masked patch: what the masked loss is averaged over."""
    return clip_of_masked_patch(batch["clip_tokens"], batch["patch_mask"]).unique().numel()


def caption_tokens(batch: Mapping) -> int:
    """Tokens that are to be written: what the caption loss is averaged over."""
    return int((batch["labels"] != -100).sum())


def pretraining_losses(
    outputs,
    batch: Mapping,
    weights: Mapping[str, float],
    targets: PrototypeTargets | None = None,
    student_temperature: float = 0.1,
    label_smoothing: float = 0.0,
    everyone: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The parts of the loss that have a weight, and their weighted "total".

    Args:
        outputs: of `SlapForPreTraining` for `model_inputs(batch, weights)`.
        batch: the collator's dict.
        weights: of "contrastive", "masked" and "caption"; 0 leaves the part out.
        targets: of the masked part, from `AudioTeacher.targets`.
        everyone: {"masked": `masked_clips`, "caption": `caption_tokens`} of all ranks, where they are known. With those
            of a whole step, the masked and caption parts of its micro-batches add up to the step's. (Contrastive parts
            do not: `gradient_cache`.)
    Returns:
        {"contrastive": (), "masked": (), "caption": (), "total": ()}, each such that the mean over ranks is
        the value of the global batch. Parts with weight 0 are missing.
    Paper: L = 1.0 L_CLAP + 1.0 L_SSL + 0.5 L_CAP.
    """
    parts, everyone = {}, everyone or {}
    if weights["contrastive"]:
        groups = batch["groups"]
        clips = len(groups)  # 0 for the collator's stand-in, which no loss must see
        parts["contrastive"] = global_contrastive_loss(
            outputs.audio_embeds[:clips], outputs.text_embeds[:clips], outputs.logit_scale, groups,
            outputs.logit_bias, "softmax" if outputs.logit_bias is None else "sigmoid",
        )  # fmt: skip
    if weights["masked"]:
        clips = clip_of_masked_patch(batch["clip_tokens"], batch["patch_mask"])
        loss = masked_prediction_loss(
            outputs.prototype_features, outputs.prototypes, targets, clips, student_temperature
        )
        parts["masked"] = loss * share_of_mean(masked_clips(batch), everyone.get("masked"))
    if weights["caption"]:
        loss = caption_loss(outputs.caption_logits, batch["labels"], label_smoothing)
        parts["caption"] = loss * share_of_mean(caption_tokens(batch), everyone.get("caption"))
    return {**parts, "total": sum(weights[name] * loss for name, loss in parts.items())}


_POOLING_PARTS = {"pooler", "fc1"}  # of SLAP's encoder, of CNN14


def keep_trainable(model: nn.Module, weights: Mapping[str, float]) -> None:
    """Freezes what no loss reaches, so that neither DDP nor weight decay sees parameters without a gradient.

    Args:
        model: `SlapForPreTraining`.
        weights: as in `pretraining_losses`.
    """
    slap = model.slap
    if not weights["masked"] and model.prototype_head is not None:
        model.prototype_head.requires_grad_(False)
        slap.audio_model.mask_token.requires_grad_(False)
    if not weights["caption"] and model.decoder is not None:
        model.decoder.requires_grad_(False)
        model.lm_head.requires_grad_(False)
    if not weights["contrastive"]:
        for name, parameter in slap.named_parameters():
            if not name.startswith("audio_model."):
                parameter.requires_grad_(False)
        for name in _POOLING_PARTS & dict(slap.audio_model.named_children()).keys():
            slap.audio_model.get_submodule(name).requires_grad_(False)
