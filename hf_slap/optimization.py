"""AdamW's parameter groups and every schedule of a run, each a pure function of the step.

Steps count from 0. A schedule is asked for the value of a step; nothing here remembers where it was, so a resumed
run needs no schedule state. (How often held-out numbers have lowered the rate is remembered in `held_out`.)
"""

import math
from typing import NamedTuple

from torch import nn
from torch.optim import AdamW

from .training_config import TrainConfig

# Weight decay pulls on the matrices of linear and convolution layers only. Paper table (a): "matrices only";
# what that leaves out is ours: gains and biases (one axis), embeddings (a row is touched only when its word
# occurs), and these parameters, which are matrices or vectors in shape only. Prototypes are L2-normalised
# where they are used, so decay would change nothing but their step size, and it would move them while they
# are frozen.
NO_DECAY = (
    "logit_scale", "logit_bias", "mask_token", "prototypes", "query", "probe", "relative_position_bias_table"
)  # fmt: skip


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """The trainable parameters in two groups for AdamW: "decay" and "no_decay" (see `NO_DECAY`).

    Args:
        model: the whole model; parameters that need no gradient are left out, tied ones counted once.
        weight_decay: of the first group.
    Returns:
        [{"name", "params", "weight_decay"}, ...], empty groups left out.
    Raises:
        ValueError: nothing is trainable.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        words = name.split(".")
        free = parameter.ndim < 2 or id(parameter) in embeddings or words[-1] in NO_DECAY
        (no_decay if free else decay).append(parameter)
    groups = [
        {"name": "decay", "params": decay, "weight_decay": weight_decay},
        {"name": "no_decay", "params": no_decay, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("no parameter of the model needs a gradient; unfreeze a part or give a loss a weight")
    return groups


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """Writes the step's learning rate into every group, times the group's "lr_scale" if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


class Scheduled(NamedTuple):
    """The numbers of one step that follow a schedule."""

    learning_rate: float
    teacher_momentum: float
    teacher_temperature: float


def scheduled(config: TrainConfig, step: int, lowered: int = 0) -> Scheduled:
    """Every scheduled number of a step, from the run's configuration.

    Args:
        lowered: of schedule "plateau": how often held-out numbers have lowered the rate (`held_out.Plateau`).
    """
    steps, peak, warmup = config.total_steps, config.peak_learning_rate, config.warmup_steps
    if config.schedule == "plateau":
        rate = plateau_rate(step, peak, warmup, lowered, config.plateau_factor, config.min_learning_rate)
    else:
        rate = learning_rate(step, peak, warmup, steps, config.min_learning_rate)
    return Scheduled(
        rate,
        teacher_momentum(step, steps, config.teacher_momentum_start, config.teacher_momentum_end),
        teacher_temperature(
            step,
            steps,
            config.teacher_temperature_start,
            config.teacher_temperature_end,
            config.teacher_temperature_warmup,
        ),
    )


def plateau_rate(step: int, peak: float, warmup_steps: int, lowered: int, factor: float, minimum: float) -> float:
    """Linear warm-up to `peak`, then `peak` times `factor` for every time it was lowered, never below `minimum`.

    Paper: CLAP 2023: 1e-3, reduced on plateau by 0.1. Not stated there: warm-up and minimum.
    """
    return max(peak * factor**lowered, minimum) * min((step + 1) / max(warmup_steps, 1), 1.0)


def learning_rate(step: int, peak: float, warmup_steps: int, total_steps: int, minimum: float) -> float:
    """Linear warm-up to `peak`, then a cosine to `minimum` on the last step.

    Args:
        step: from 0. Step 0 already moves (peak / warmup_steps); step warmup_steps - 1 runs at the peak.
    Paper: linear warm-up to 1e-4 over 2,000 steps. Not stated after that; cosine as WavLink and DINOv3 do.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return cosine(step - warmup_steps + 1, total_steps - warmup_steps, peak, minimum)


def teacher_momentum(step: int, total_steps: int, start: float, end: float) -> float:
    """The share of itself that the teacher keeps in this step's update. Paper: 0.994 to 1.0, cosine."""
    return cosine(step, total_steps, start, end)


def teacher_temperature(step: int, total_steps: int, start: float, end: float, warmup_fraction: float) -> float:
    """The temperature of the teacher's scores: linear over the first part of the run, then constant.

    Not stated in the paper; 0.04 to 0.07 is DINOv2's and DINOv3's, over their first 30 epochs of 100 or more,
    which is the first 30 % of steps here.
    """
    return linear(step, round(warmup_fraction * total_steps), start, end)


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at step `steps` and after, flat at both ends."""
    progress = min(step / steps, 1.0) if steps > 0 else 1.0
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def linear(step: int, steps: int, start: float, end: float) -> float:
    """From `start` at step 0 to `end` at step `steps` and after."""
    progress = min(step / steps, 1.0) if steps > 0 else 1.0
    return start + (end - start) * progress
