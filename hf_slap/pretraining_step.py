"""One optimizer step of pretraining: targets, losses, gradients, update; or, when a number is not finite, nothing.

A step has the same result however its clips are spread over ranks and micro-batches: the contrastive loss sees all
pairs, Sinkhorn all patches, and the masked and the caption loss are means over all clips and all words of the step.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .distributed import gather_objects, sum_over_ranks, world_size
from .gradient_cache import ContrastiveCache, random_state, set_random_state
from .objectives import (
    AudioTeacher,
    caption_tokens,
    freeze_prototypes,
    masked_clips,
    model_inputs,
    pretraining_losses,
)
from .optimization import scheduled, set_learning_rate
from .prototypes import PrototypeTargets
from .telemetry import StepTelemetry
from .training_config import TrainConfig


class StepResult(NamedTuple):
    """What a step says of the batch of all ranks.

    Args:
        losses: "contrastive", "masked" and "caption", as far as they have a weight, and "total".
        gradient_norm: before it was clipped.
        clips, audio_seconds: that could be read.
        skipped: why nothing was changed; None when the step was taken.
        batches: where it was skipped, what is known of every micro-batch of every rank: {"ids", "left_out" (ids of
            clips that cannot be read), "losses" (what it adds to those of its rank)}; else empty.
    """

    losses: dict[str, float]
    gradient_norm: float
    clips: int
    audio_seconds: float
    skipped: str | None = None
    batches: Sequence[dict] = ()


def pretraining_step(
    accelerator: Accelerator,
    wrapped: nn.Module,
    optimizer: torch.optim.Optimizer,
    teacher: AudioTeacher | None,
    batches: Sequence[Mapping],
    step: int,
    config: TrainConfig,
    telemetry: StepTelemetry | None = None,
    lowered: int = 0,
) -> StepResult:
    """Takes one step; call it on every rank, with as many micro-batches on each.

    A step that is skipped leaves weights, moments, teacher, centring and torch's random state as they were.

    Args:
        accelerator: of the run.
        wrapped: `SlapForPreTraining` as its engine runs it (`engine.wrap`).
        optimizer: prepared by the accelerator.
        teacher: needed when the masked loss has a weight.
        batches: this rank's micro-batches, the collator's dicts; a batch of its stand-in alone takes part in no loss.
        step: from 0.
        config: weights of the losses, schedules, clipping.
        telemetry: is told of every micro-batch.
        lowered: how often held-out numbers have lowered the learning rate.
    """
    model, device, now = accelerator.unwrap_model(wrapped), accelerator.device, scheduled(config, step, lowered)
    set_learning_rate(optimizer, now.learning_rate)
    everyone = _count(batches, config.loss_weights, device)
    if not everyone["clips"]:
        return _skipped("not one of its clips can be read", batches, [{}] * len(batches))
    batches = [{k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()} for batch in batches]
    undo = _remember(teacher, device)

    targets = [None] * len(batches)
    if teacher is not None:
        with accelerator.autocast():
            features = [teacher(b["teacher_features"], b["clip_frames"], b["patch_mask"]) for b in batches]
        whole, ends = teacher.targets(torch.cat(features), now.teacher_temperature), accumulate(map(len, features))
        targets = [whole[end - len(part) : end] for part, end in zip(features, ends, strict=True)]
        if telemetry:
            telemetry.targets(batches, whole)
    said = _backward(accelerator, wrapped, batches, targets, everyone, config, telemetry)
    freeze_prototypes(model, step, config.freeze_prototypes_steps)
    norm = float(accelerator.clip_grad_norm_(wrapped.parameters(), config.gradient_clip))

    sums = {name: sum(parts[name] for parts in said) for name in said[0]}
    means = sum_over_ranks(torch.stack(list(sums.values()))) / world_size()
    losses = dict(zip(sums, means.tolist(), strict=True))
    losses["total"] = sum(config.loss_weights[name] * loss for name, loss in losses.items())
    heard = torch.tensor(sum(batch["audio_seconds"] for batch in batches), dtype=torch.float32, device=device)
    result = StepResult(losses, norm, everyone["clips"], float(sum_over_ranks(heard)))
    if all(map(math.isfinite, (*losses.values(), norm))):  # the same numbers on all ranks, so all of them agree
        optimizer.step()
        model.slap.clamp_logit_scale()
        if teacher is not None:
            teacher.update(model, now.teacher_momentum)
    else:
        undo()
        what = "loss" if math.isfinite(norm) else "gradient" if math.isfinite(losses["total"]) else "loss and gradient"
        result = _skipped(f"its {what} is not finite", batches, said, result)
    optimizer.zero_grad()
    return result


def _count(batches: Sequence[Mapping], weights: Mapping[str, float], device: torch.device) -> dict[str, int]:
    """What the losses of the step are means over, on all ranks."""
    counts = {"clips": sum(len(batch["ids"]) for batch in batches)}
    if weights["masked"]:
        counts["masked"] = sum(map(masked_clips, batches))
    if weights["caption"]:
        counts["caption"] = sum(map(caption_tokens, batches))
    everyone = sum_over_ranks(torch.tensor(list(counts.values()), dtype=torch.int64, device=device))
    return dict(zip(counts, everyone.tolist(), strict=True))


def _backward(
    accelerator: Accelerator,
    wrapped: nn.Module,
    batches: Sequence[Mapping],
    targets: Sequence[PrototypeTargets | None],
    everyone: Mapping[str, int],
    config: TrainConfig,
    telemetry: StepTelemetry | None,
) -> list[dict[str, Tensor]]:
    """Adds the gradient of the step to the weights; returns what each micro-batch adds to this rank's losses."""
    weights, settings = config.loss_weights, (config.student_temperature, config.label_smoothing)
    added, cache = weights, None
    if weights["contrastive"] and len(batches) > 1:
        added = {**weights, "contrastive": 0.0}  # the others are sums over micro-batches
        cache = ContrastiveCache(wrapped, batches, config.shared_masked_pass and bool(weights["masked"]))
    said = []
    for number, batch in enumerate(batches):
        is_last = number + 1 == len(batches)
        with contextlib.nullcontext() if is_last else accelerator.no_sync(wrapped):
            if cache:
                cache.rewind(number)
            outputs = wrapped(**model_inputs(batch, weights), shared_masked_pass=config.shared_masked_pass)
            losses = pretraining_losses(outputs, batch, added, targets[number], *settings, everyone)
            total = losses.pop("total")
            if cache:
                losses = {"contrastive": cache.loss / len(batches), **losses}
                total = total + weights["contrastive"] * cache.surrogate(number, outputs)
            accelerator.backward(total)
        said.append({name: loss.detach() for name, loss in losses.items()})
        if telemetry:
            telemetry.clips(batch, outputs, targets[number], *settings)
    if telemetry and weights["contrastive"]:
        embeds = cache or outputs
        clips, bias = sum(len(batch["ids"]) for batch in batches), outputs.logit_bias
        kind = "softmax" if bias is None else "sigmoid"
        telemetry.pairs(
            batches, embeds.audio_embeds[:clips], embeds.text_embeds[:clips], outputs.logit_scale, bias, kind
        )
    return said


def _remember(teacher: AudioTeacher | None, device: torch.device) -> Callable[[], None]:
    """What puts back all that a step changes before it is known to be good."""
    state = random_state(device)
    centers = [(buffer, buffer.clone()) for buffer in teacher.buffers()] if teacher is not None else []

    def undo() -> None:
        set_random_state(state, device)
        for buffer, before in centers:
            buffer.copy_(before)

    return undo


def _skipped(
    reason: str, batches: Sequence[Mapping], said: Sequence[Mapping], result: StepResult | None = None
) -> StepResult:
    """The result with all that is known of every micro-batch of every rank."""
    mine = [
        {
            "ids": batch["ids"],
            "left_out": [name for name, _ in batch["skipped"]],
            "losses": {name: repr(float(loss)) for name, loss in parts.items()},  # JSON has no number for nan
        }
        for batch, parts in zip(batches, said, strict=True)
    ]
    everyone = [batch for batches in gather_objects(mine) for batch in batches]
    return (result or StepResult({}, 0.0, 0, 0.0))._replace(skipped=reason, batches=everyone)
