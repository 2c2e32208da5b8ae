"""The losses of SLAP that every user of the model may want. Pure functions: no parameter, no rank, no cache."""

import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive_loss(
    audio_embeds: Tensor, text_embeds: Tensor, scale: Tensor | float, ignore: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding each row's partner, averaged over both directions (symmetric InfoNCE).

    Args:
        audio_embeds: (B, D), unit norm.
        text_embeds: (B, D), unit norm; row i belongs to audio row i.
        scale: (), the multiplier itself, not its logarithm.
        ignore: (B, B) bool, audio x text; True takes a pair out of the negatives, such as another clip with the same
            caption. The partners on the diagonal always stay.
    Returns:
        (), float32 (float64 for float64 inputs), in nats.
    Raises:
        ValueError: the two sides differ in shape, or `ignore` does not fit them.
    Paper: SLAP, section 2 (L_CLAP); Radford et al. 2021 (CLIP), figure 3.
    """
    if audio_embeds.shape != text_embeds.shape:
        raise ValueError(
            f"audio_embeds {tuple(audio_embeds.shape)} and text_embeds {tuple(text_embeds.shape)} "
            "must match row for row; gather both sides over the same ranks"
        )
    logits = scale * (at_least_float32(audio_embeds) @ at_least_float32(text_embeds).T)  # (B, B), audio x text
    partner = torch.arange(len(logits), device=logits.device)  # (B,)
    if ignore is not None:
        if ignore.shape != logits.shape:
            raise ValueError(f"ignore {tuple(ignore.shape)} must have one entry per pair, {tuple(logits.shape)}")
        itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(ignore & ~itself, float("-inf"))
    return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2


def sigmoid_contrastive_loss(
    audio_embeds: Tensor,
    text_embeds: Tensor,
    scale: Tensor | float,
    bias: Tensor | float | None = None,
    ignore: Tensor | None = None,
    first: int = 0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of telling, of every pair by itself, whether it belongs together (SigLIP).

    Labels are +1 for partners and -1 for all other pairs; with 0 in place of -1 wrong pairs would teach nothing.

    Args:
        audio_embeds: (B, D), unit norm.
        text_embeds: (C, D), unit norm, C >= B; row first + i belongs to audio row i.
        scale: (), the multiplier itself, not its logarithm.
        bias: (), added to every logit; None adds nothing.
        ignore: (B, C) bool, audio x text; True takes a pair out, such as another clip with the same caption. Partners
            always stay.
        first: text row of the first clip's partner.
        reduction: "mean" over the B clips, or "none".
    Returns:
        (), or (B,) for "none"; float32 (float64 for float64 inputs), in nats: the sum over a clip's pairs.
    Raises:
        ValueError: the texts do not hold all partners, or `ignore` does not fit.
    Paper: Zhai et al. 2023 (SigLIP), algorithm 1. An option of ours: SLAP uses `contrastive_loss`.
    """
    if audio_embeds.shape[1] != text_embeds.shape[1] or not 0 <= first <= len(text_embeds) - len(audio_embeds):
        raise ValueError(
            f"text_embeds {tuple(text_embeds.shape)} must hold the partners of audio_embeds "
            f"{tuple(audio_embeds.shape)}, from row {first} on; gather the texts of all ranks in the order of ranks"
        )
    logits = scale * (at_least_float32(audio_embeds) @ at_least_float32(text_embeds).T)  # (B, C), audio x text
    if bias is not None:
        logits = logits + bias
    partner = torch.arange(len(logits), device=logits.device)[:, None] + first  # (B, 1)
    is_partner = torch.arange(logits.shape[1], device=logits.device) == partner  # (B, C)
    cost = F.softplus(torch.where(is_partner, -logits, logits))  # -log sigmoid(label x logit)
    if ignore is not None:
        if ignore.shape != logits.shape:
            raise ValueError(f"ignore {tuple(ignore.shape)} must have one entry per pair, {tuple(logits.shape)}")
        cost = cost.masked_fill(ignore & ~is_partner, 0.0)
    return cost.sum(1) if reduction == "none" else cost.sum() / len(logits)


def caption_loss(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of the next caption token, averaged over all tokens that count.

    Args:
        logits: (B, L, V), scores of the token at each position.
        labels: (B, L), the token that stands there; -100 where nothing is to be learned.
        label_smoothing: share of the target spread over the vocabulary.
    Returns:
        (), float32 (float64 for float64 inputs), in nats per token; 0 with a gradient of 0 when no token counts.
    Raises:
        ValueError: logits and labels differ in batch or length.
    Paper: SLAP, section 2 (L_CAP). Label smoothing: Not stated; 0 chosen as in CapPa.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} differ in batch or length")
    total = F.cross_entropy(
        at_least_float32(logits).flatten(0, 1),
        labels.flatten(),
        ignore_index=-100,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return total / (labels != -100).sum().clamp(min=1)


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


__all__ = ["caption_loss", "contrastive_loss", "sigmoid_contrastive_loss"]
