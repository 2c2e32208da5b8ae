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


__all__ = ["caption_loss", "contrastive_loss"]
