"""What pretraining optimises: 1.0 contrastive + 1.0 masked prediction + 0.5 captioning, and the EMA teacher.

Letters: n masked patches, K prototypes, B clips of this rank, D joint width.

The contrastive and the caption loss read the clean pass of the audio encoder, masked prediction reads a
second pass with half of the patches replaced by the mask token. A part whose weight is 0 is not computed at
all, so every row of the paper's ablation table is one number in the configuration.

Paper: SLAP, section 2: symmetric InfoNCE; "teacher reads unmasked patches; student reads patches masked at
random with ratio 0.5; MLP head to prototype scores; cross-entropy teacher to student per patch". Not stated:
prototypes, temperatures, centring, which patches are scored. Chosen as in DINOv2 ViT-L, whose unusual momentum
of 0.994 the paper shares.
"""

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .distributed import (
    gather_rows,
    gather_with_gradient,
    max_over_ranks,
    rank,
    rows_per_rank,
    share_of_mean,
    sum_over_ranks,
    world_size,
)
from .modeling.losses_slap import at_least_float32, caption_loss

MASK_KINDS = ("random", "block")
CENTERINGS = ("sinkhorn", "softmax")
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


# ---------------------------------------------------------------------------------------------------- targets
@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3, group=None) -> Tensor:
    """Soft assignments of patches to prototypes in which every prototype is used alike (Sinkhorn-Knopp).

    Args:
        scores: (n, K), the teacher's. n may differ between ranks and be 0.
        temperature: the scores are divided by it.
        iterations: rounds of making prototypes, then patches, sum alike.
        group: process group; sums run over the patches of all its ranks. None is the default group.
    Returns:
        (n, K), float32 (float64 for float64 scores): rows sum to 1; columns sum to about n/K, over all ranks.
    Paper: Not stated. SwAV (Caron et al. 2020), appendix; DINOv2 ViT-L and DINOv3 use 3 iterations.
    """
    scores = at_least_float32(scores) / temperature
    largest = scores.max() if scores.numel() else scores.new_full((), -torch.inf)
    # One constant for all ranks cancels in the sums and keeps exp() finite.
    shares = torch.exp(scores - max_over_ranks(largest, group))  # (n, K)
    tiny = torch.finfo(shares.dtype).tiny
    for _ in range(iterations):
        shares /= sum_over_ranks(shares.sum(0, keepdim=True), group).clamp(min=tiny)
        shares /= shares.sum(1, keepdim=True).clamp(min=tiny)
    return shares


class SoftmaxCentering(nn.Module):
    """The cheaper alternative to Sinkhorn: softmax of the scores less their running mean.

    The running mean is the one from before this batch; the batch is added afterwards.

    Args:
        num_prototypes: K.
        momentum: share of the old mean that is kept. Paper: Not stated; 0.9 as in DINO.
    """

    def __init__(self, num_prototypes: int, momentum: float = 0.9):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(num_prototypes))

    @torch.no_grad()
    def forward(self, scores: Tensor, temperature: float) -> Tensor:
        """(n, K) scores to (n, K) probabilities, float32, whose rows sum to 1."""
        scores = at_least_float32(scores)
        probabilities = torch.softmax((scores - self.center) / temperature, dim=-1)
        count = sum_over_ranks(torch.tensor(len(scores), device=scores.device, dtype=scores.dtype))
        mean = sum_over_ranks(scores.sum(0)) / count.clamp(min=1)
        self.center.lerp_(mean.to(self.center.dtype), 1.0 - self.momentum)
        return probabilities


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
        """The scores of the patches that the student does not see.

        Args:
            features: (frames of all clips, mel bins), without masks of any kind (no SpecAugment either).
            clip_frames: frames of each clip.
            patch_mask: (patches of all clips,) bool.
        Returns:
            (n, K), in the order of the packed patches.
        """
        output = self.audio_model(features, clip_frames=clip_frames)
        dense = output.last_hidden_state[output.attention_mask]  # (patches, width)
        return self.prototype_head(dense[patch_mask])

    def probabilities(self, scores: Tensor, temperature: float) -> Tensor:
        """(n, K) scores to (n, K) targets whose rows sum to 1."""
        return self.centering(scores, temperature) if self.centering else sinkhorn(scores, temperature)

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
def global_contrastive_loss(audio_embeds: Tensor, text_embeds: Tensor, scale: Tensor, groups: Tensor) -> Tensor:
    """`modeling.losses_slap.contrastive_loss` against the clips of all ranks.

    Each rank scores its own rows against everybody's columns: B x (B of all ranks) similarities twice, not
    the square.

    Args:
        audio_embeds: (B, D), unit norm, of this rank; B may differ between ranks.
        text_embeds: (B, D), unit norm; row i belongs to audio row i.
        scale: (), the multiplier itself.
        groups: (B,), int64, equal for clips that must not be each other's negatives (same caption).
    Returns:
        (), float32, in nats, times this rank's share (`distributed.share_of_mean`): the mean over ranks is
        the loss of the global batch, and so is the mean of the gradients.
    Paper: L_CLAP, with the gather across ranks assumed, as everywhere since CLIP.
    """
    audio, text = at_least_float32(audio_embeds), at_least_float32(text_embeds)
    first = sum(rows_per_rank(groups)[: rank()])
    partner = torch.arange(first, first + len(groups), device=groups.device)  # (B,), the column of each row's partner
    everyone = gather_rows(groups)
    ignore = groups[:, None] == everyone[None, :]  # (B, all)
    ignore[torch.arange(len(groups), device=groups.device), partner] = False

    def cost(rows: Tensor, columns: Tensor) -> Tensor:
        logits = (scale * (rows @ columns.T)).masked_fill(ignore, -torch.inf)  # (B, all)
        return F.cross_entropy(logits, partner, reduction="sum")

    total = cost(audio, gather_with_gradient(text)) + cost(text, gather_with_gradient(audio))
    return total * (world_size() / (2 * len(everyone)))


def masked_prediction_loss(
    student_scores: Tensor, teacher_probs: Tensor, clip_of_patch: Tensor, student_temperature: float = 0.1
) -> Tensor:
    """Cross-entropy of the student's prototypes under the teacher's, every clip counting alike.

    Args:
        student_scores: (n, K), of the masked patches.
        teacher_probs: (n, K), rows sum to 1.
        clip_of_patch: (n,), int64, the clip of each patch. A patch weighs 1 / (masked patches of its clip).
        student_temperature: the scores are divided by it.
    Returns:
        (), float32, in nats per patch; the mean over clips that have a masked patch, 0 when none has.
    Raises:
        ValueError: the shapes do not fit.
    Paper: L_SSL. Not stated which patches count and how clips are weighed; masked ones, 1/n per clip,
        temperature 0.1, as in DINOv2's iBOT loss.
    """
    if student_scores.shape != teacher_probs.shape or len(clip_of_patch) != len(student_scores):
        raise ValueError(
            f"student_scores {tuple(student_scores.shape)}, teacher_probs {tuple(teacher_probs.shape)} and "
            f"clip_of_patch {tuple(clip_of_patch.shape)} must describe the same patches; "
            "student and teacher must have seen the same patch_mask"
        )
    log_probs = F.log_softmax(at_least_float32(student_scores) / student_temperature, dim=-1)
    cost = -(teacher_probs * log_probs).sum(-1)  # (n,)
    masked = torch.bincount(clip_of_patch)  # masked patches of each clip
    return (cost / masked[clip_of_patch]).sum() / (masked > 0).sum().clamp(min=1)


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
    return {name: batch[name] for name in names}


def pretraining_losses(
    outputs,
    batch: Mapping,
    weights: Mapping[str, float],
    teacher_probs: Tensor | None = None,
    student_temperature: float = 0.1,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """The parts of the loss that have a weight, and their weighted "total".

    Args:
        outputs: of `SlapForPreTraining` for `model_inputs(batch, weights)`.
        batch: the collator's dict.
        weights: of "contrastive", "masked" and "caption"; 0 leaves the part out.
        teacher_probs: (n, K), the targets of the masked part.
    Returns:
        {"contrastive": (), "masked": (), "caption": (), "total": ()}, each such that the mean over ranks is
        the value of the global batch. Parts with weight 0 are missing.
    Paper: L = 1.0 L_CLAP + 1.0 L_SSL + 0.5 L_CAP.
    """
    parts = {}
    if weights["contrastive"]:
        parts["contrastive"] = global_contrastive_loss(
            outputs.audio_embeds, outputs.text_embeds, outputs.logit_scale, batch["caption_group"]
        )
    if weights["masked"]:
        clips = clip_of_masked_patch(batch["clip_tokens"], batch["patch_mask"])
        loss = masked_prediction_loss(outputs.prototype_scores, teacher_probs, clips, student_temperature)
        parts["masked"] = loss * share_of_mean(len(batch["clip_frames"]))
    if weights["caption"]:
        words = int((batch["labels"] != -100).sum())
        loss = caption_loss(outputs.caption_logits, batch["labels"], label_smoothing)
        parts["caption"] = loss * share_of_mean(words)
    return {**parts, "total": sum(weights[name] * loss for name, loss in parts.items())}


def keep_trainable(model: nn.Module, weights: Mapping[str, float]) -> None:
    """Freezes what no loss reaches, so that neither DDP nor weight decay sees parameters without a gradient.

    Args:
        model: `SlapForPreTraining`.
        weights: as in `pretraining_losses`.
    """
    slap = model.slap
    if not weights["masked"]:
        model.prototype_head.requires_grad_(False)
        slap.audio_model.mask_token.requires_grad_(False)
    if not weights["caption"] and model.decoder is not None:
        model.decoder.requires_grad_(False)
        model.lm_head.requires_grad_(False)
    if not weights["contrastive"]:
        for name, parameter in slap.named_parameters():
            if not name.startswith("audio_model."):
                parameter.requires_grad_(False)
        slap.audio_model.pooler.requires_grad_(False)


@torch.no_grad()
def prototype_statistics(teacher_probs: Tensor) -> dict[str, float]:
    """How the targets use the prototypes, on this rank: numbers to watch for collapse.

    Args:
        teacher_probs: (n, K), rows sum to 1, n >= 1.
    Returns:
        "target_entropy": mean entropy of a patch's target, as a share of log K: 1 is "all prototypes alike",
        a target that says nothing. "prototypes_used": prototypes that are the likeliest of some patch, as a
        share of the most there could be, min(n, K): near 0 is collapse onto a few.
    """
    count, prototypes = teacher_probs.shape
    entropy = torch.special.entr(teacher_probs).sum(-1).mean() / math.log(prototypes)
    used = teacher_probs.argmax(-1).unique().numel() / min(count, prototypes)
    return {"target_entropy": float(entropy), "prototypes_used": used}
