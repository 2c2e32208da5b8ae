"""What a step tells besides its loss: which clips are costly, how embeddings and prototypes are doing, how fast it is.

Nothing here changes a loss or draws a random number. `StepTelemetry` works at the steps that are logged, on what the
step has computed anyhow; `Speed` counts in every step, on the side of the loader. All values are of the global batch:
sums over micro-batches and ranks.

Letters: n masked patches, K prototypes, W width of their bottleneck, B clips of this rank, D joint width.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .compute import memory_gb
from .distributed import gather_objects, gather_rows, sum_over_ranks, world_size
from .modeling.losses_slap import at_least_float32
from .objectives import clip_of_masked_patch, global_contrastive_loss, same_group
from .prototypes import PrototypeTargets, patch_costs, prototype_statistics

DURATION_EDGES = (1, 2, 5, 10, 20)  # seconds


class StepTelemetry:
    """What one step says: `clips` for each micro-batch, `pairs` and `targets` once, then `values`.

    Each of the three may be left out, on all ranks alike; its values are then missing.
    """

    def __init__(self):
        self._sums: dict[str, float] = defaultdict(float)
        self._values: dict[str, float] = {}

    @torch.no_grad()
    def clips(
        self,
        batch: Mapping,
        outputs,
        targets: PrototypeTargets | None = None,
        student_temperature: float = 0.1,
        label_smoothing: float = 0.0,
    ) -> None:
        """Adds what masked prediction and captioning cost on the clips of a micro-batch.

        Args:
            batch: the collator's dict.
            outputs: of `SlapForPreTraining` for it.
            targets: of its masked patches.
            student_temperature, label_smoothing: as in the losses.
        """
        if not batch["ids"]:  # a stand-in for clips that cannot be read
            return
        frames = batch["clip_frames"]
        self._sums["frames"] += sum(frames)
        self._sums["padded_frames"] += len(frames) * max(frames)
        bins = bins_of(batch)
        for found in bins:
            for name in found:
                self._sums[f"clips/{name}"] += 1
        if targets is not None:
            clips = clip_of_masked_patch(batch["clip_tokens"], batch["patch_mask"])
            cost = patch_costs(outputs.prototype_features, outputs.prototypes, targets, student_temperature)
            masked = torch.bincount(clips, minlength=len(frames))
            cost = torch.zeros(len(frames), dtype=cost.dtype, device=cost.device).index_add_(0, clips, cost)
            self._add("masked", bins, cost / masked.clamp(min=1), (masked > 0).long())
        if outputs.caption_logits is not None:
            pairs = zip(outputs.caption_logits, batch["labels"], strict=True)  # clip by clip: vocabularies are large
            cost = [
                F.cross_entropy(at_least_float32(x), y, label_smoothing=label_smoothing, reduction="sum")
                for x, y in pairs
            ]
            self._add("caption", bins, torch.stack(cost), (batch["labels"] != -100).sum(1))

    @torch.no_grad()
    def pairs(
        self,
        batches: Sequence[Mapping],
        audio_embeds: Tensor,
        text_embeds: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        kind: str = "softmax",
    ) -> None:
        """Adds what the contrastive loss costs on each clip of the step, and how its embeddings lie.

        Args:
            batches: all micro-batches of the step.
            audio_embeds, text_embeds: (B, D), unit norm, of all of them in their order.
            scale, bias, kind: as in `objectives.global_contrastive_loss`.
        """
        groups = torch.cat([batch["groups"] for batch in batches])
        cost = global_contrastive_loss(audio_embeds, text_embeds, scale, groups, bias, kind, reduction="none")
        bins = [found for batch in batches for found in bins_of(batch)]
        self._add("contrastive", bins, cost, torch.ones_like(groups[:, 0]))
        self._values |= embedding_health(audio_embeds, text_embeds) | false_negatives(groups)
        self._values["logit_scale"] = float(scale)
        if bias is not None:
            self._values["logit_bias"] = float(bias)

    @torch.no_grad()
    def targets(self, batches: Sequence[Mapping], targets: PrototypeTargets) -> None:
        """Adds how the targets of all micro-batches use the prototypes."""
        clips, first = [], 0
        for batch in batches:
            clips.append(first + clip_of_masked_patch(batch["clip_tokens"], batch["patch_mask"]))
            first += len(batch["clip_frames"])
        self._values |= prototype_statistics(targets, torch.cat(clips))
        self._values["patch_rank"] = effective_rank(targets.features)

    def values(self) -> dict[str, float]:
        """Everything that was added, over all ranks; call it on all of them.

        Returns:
            "contrastive/source/<name>", "masked/seconds/<range>" and so on: mean cost of the clips of a source or a
            range of durations, in the unit of the loss (nats per clip, per patch, per token), and "contrastive" and so
            on, of all clips; "clips/source/<name>" and so on, their number; "padding_share", what padded micro-batches
            would waste; what `embedding_health`, `false_negatives` and `prototypes.prototype_statistics` say;
            "patch_rank", effective rank of the features that the targets are made from; "masked_gain", nats per patch
            by which the student is better than the best constant prediction.
        """
        sums: dict[str, float] = defaultdict(float)
        for part in gather_objects(dict(self._sums)):
            for name, value in part.items():
                sums[name] += value
        values = dict(self._values)
        if "padded_frames" in sums:
            values["padding_share"] = 1 - sums["frames"] / sums["padded_frames"]
        for name in sorted(sums):
            if name.startswith("weight/"):
                cost = name.removeprefix("weight/")
                if sums[name]:
                    values[cost] = sums[cost] / sums[name]
            elif name.startswith("clips/"):
                values[name] = sums[name]
        if "constant_prediction" in values and "masked" in values:
            values["masked_gain"] = values["constant_prediction"] - values["masked"]
        return values

    def _add(self, part: str, bins: list[list[str]], costs: Tensor, weights: Tensor) -> None:
        """Costs and weights are sums over each clip: what is told in the end is their ratio."""
        for found, cost, weight in zip(bins, costs.tolist(), weights.tolist(), strict=True):
            for name in (part, *(f"{part}/{name}" for name in found)):
                self._sums[name] += cost
                self._sums[f"weight/{name}"] += weight


def bins_of(batch: Mapping) -> list[list[str]]:
    """For each clip "source/<its source>", where it has one, and "seconds/<range of its duration>"."""
    if not batch["ids"]:
        return []  # the stand-in for clips that are all broken
    seconds_per_frame = batch["audio_seconds"] / sum(batch["clip_frames"])
    return [
        [f"source/{source}"] * bool(source) + [f"seconds/{duration_range(frames * seconds_per_frame)}"]
        for source, frames in zip(batch["sources"], batch["clip_frames"], strict=True)
    ]


def duration_range(seconds: float) -> str:
    """The range of durations that a clip falls into: "under 1", "1 to 2", ..., "20 or more"."""
    above = [edge for edge in DURATION_EDGES if seconds >= edge - 1e-6]
    below = DURATION_EDGES[len(above) :]
    if not above:
        return f"under {below[0]}"
    return f"{above[-1]} to {below[0]}" if below else f"{above[-1]} or more"


# ------------------------------------------------------------------------------------------------------- embeddings
@torch.no_grad()
def effective_rank(rows: Tensor) -> float:
    """How many directions the rows of all ranks spread over: exp of the entropy of the singular values.

    Args:
        rows: (n, D), of this rank. n may differ between ranks and be 0.
    Returns:
        From 1 (all rows are multiples of one) to the smaller of D and the rows of all ranks.
    Paper: RankMe (Garrido et al. 2023), equation 1; Roy and Vetterli 2007. Not centred, as there.
    """
    wide = rows.cpu().double() if rows.device.type == "mps" else rows.double()
    products = sum_over_ranks(wide.T @ wide)
    if not products.isfinite().all():
        return math.nan
    # The squares of the singular values; in half the digits small ones would be noise, and noise has full rank.
    squares = torch.linalg.eigvalsh(products)
    values = squares.where(squares > squares.max() * len(squares) * 2e-16, 0).sqrt()  # what is left is rounding
    return float(torch.special.entr(values / values.sum().clamp(min=1e-300)).sum().exp())


@torch.no_grad()
def embedding_health(audio_embeds: Tensor, text_embeds: Tensor) -> dict[str, float]:
    """Whether the two sides of the joint space spread out, and how far they lie apart.

    Args:
        audio_embeds, text_embeds: (B, D), unit norm, of this rank.
    Returns:
        "audio_rank" and "text_rank", the effective ranks; "modality_gap", the distance of the two centroids, from 0
        (they coincide) to 2.
    Paper: the gap is that of Liang et al. 2022.
    """
    count = sum_over_ranks(torch.tensor(len(audio_embeds), device=audio_embeds.device))
    apart = sum_over_ranks(at_least_float32(audio_embeds).sum(0) - at_least_float32(text_embeds).sum(0)) / count
    return {
        "audio_rank": effective_rank(audio_embeds),
        "text_rank": effective_rank(text_embeds),
        "modality_gap": float(apart.norm()),
    }


@torch.no_grad()
def false_negatives(groups: Tensor) -> dict[str, float]:
    """Pairs of clips that are not each other's negatives, because clip or caption are the same.

    Args:
        groups: (B, G) int64, of this rank.
    Returns:
        "false_negatives", ordered pairs of different clips over all ranks that the contrastive loss leaves out, and
        "false_negative_share", their share of all such pairs.
    """
    everyone = gather_rows(groups)
    clips = len(everyone)
    pairs = int(sum_over_ranks(same_group(groups, everyone).sum())) - clips
    return {"false_negatives": pairs, "false_negative_share": pairs / max(clips * (clips - 1), 1)}


# ------------------------------------------------------------------------------------------------------------- speed
class Speed:
    """How much a run hears in a second, how much of the device it uses, and how long it waits for data.

    Args:
        device: of the model.
        operations: of a step's batch, `compute.step_operations`.
        rate: operations per second that the device can do, `compute.matmul_rate`.
    """

    def __init__(self, device: torch.device, operations: Callable[[Mapping], float], rate: float):
        self.device, self.operations, self.rate = device, operations, rate
        self.restart()

    def restart(self) -> None:
        """Forgets what came before, such as a validation that is no part of training."""
        self._started = time.perf_counter()
        self._done = {"seconds_of_audio": 0.0, "clips": 0, "operations": 0.0, "waited": 0.0}

    def watch(self, batches: Iterable[Mapping]) -> Iterator[Mapping]:
        """The batches as they come from the loader, counted, and timed while they are waited for."""
        batches = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._done["waited"] += time.perf_counter() - asked
            self._done["seconds_of_audio"] += batch["audio_seconds"]
            self._done["clips"] += len(batch["ids"])
            self._done["operations"] += self.operations(batch)
            yield batch

    def values(self) -> dict[str, float]:
        """Since the last call or restart, over all ranks; call it on all of them, after the device has finished a step.

        Returns:
            "audio_seconds_per_second"; "clips_per_second"; "utilisation", model FLOPs as a share of what the devices'
            matrix-multiply rate allows; "waiting_share", share of the time in which a rank waits for the loader;
            "memory_gb", of the rank that holds most (`compute.memory_gb`).
        """
        passed = max(time.perf_counter() - self._started, 1e-9)
        ranks = gather_objects({**self._done, "rate": self.rate, "memory": memory_gb(self.device), "passed": passed})
        self.restart()
        passed = max(part["passed"] for part in ranks)
        total = {name: sum(part[name] for part in ranks) for name in ranks[0]}
        return {
            "audio_seconds_per_second": total["seconds_of_audio"] / passed,
            "clips_per_second": total["clips"] / passed,
            "utilisation": total["operations"] / (total["rate"] * passed),
            "waiting_share": total["waited"] / (passed * world_size()),
            "memory_gb": max(part["memory"] for part in ranks),
        }
