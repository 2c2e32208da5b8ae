"""Which clips make up each optimizer step, and which rank computes which: pure functions of seed and epoch.

Nothing of an epoch is held but its order (4 bytes a clip) and the durations: batches are made when they are asked for,
so a corpus of a hundred million clips costs each process well under two gigabytes.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class ClipRef(NamedTuple):
    """One clip in one epoch: what the training dataset is indexed with, and all that its random draws depend on."""

    epoch: int
    position: int  # place in the epoch's global order, the same for any number of ranks
    index: int  # row of the corpus


def plan_epoch(
    durations: Sequence[float],
    batch_seconds: float,
    seed: int,
    epoch: int,
    max_seconds: float = 30.0,
    max_clips: int | None = None,
    min_clips: int = 2,
    order: np.ndarray | None = None,
) -> Iterator[list[int]]:
    """The clips of every optimizer step of an epoch, over all ranks.

    Clips come in a random order and fill a batch until the next one would exceed `batch_seconds`. Lengths are mixed
    on purpose: packed clips cost no padding, and a batch of like lengths has easier negatives. The batch that the
    corpus ends in is dropped unless it is full (not even the shortest clip would fit) or the only one.

    Args:
        durations: seconds of each clip of the corpus.
        batch_seconds: seconds of audio in one optimizer step, over all ranks.
        seed: of the run.
        epoch: from 0; each has its own order.
        max_seconds: longer clips are cropped to this, and count as this.
        max_clips: no batch has more; None is no limit.
        min_clips: no batch has fewer, even if that takes more than `batch_seconds`. At least 2 (one clip has no
            negative). Not the number of ranks: then the order would depend on it.
        order: the epoch's rows in their order, as from `sampling.epoch_order`; default: every row once, shuffled.
    Returns:
        One list of rows of the corpus after the other, made when it is asked for. No row occurs twice unless it does in
        `order`.
    Raises:
        ValueError: fewer clips than `min_clips`, a limit that is not positive, or limits that contradict each other.
    Paper: not stated, batch of 2,048 clips; seconds are chosen because the cost of a batch is its patches.
    """
    if not batch_seconds > 0 or not max_seconds > 0:
        raise ValueError(f"batch_seconds {batch_seconds} and max_seconds {max_seconds} must be positive")
    if min_clips < 2:
        raise ValueError(f"min_clips is {min_clips}; a contrastive batch needs at least 2 clips")
    if max_clips is not None and max_clips < min_clips:
        raise ValueError(f"max_clips {max_clips} is less than min_clips {min_clips}")
    if len(durations) < min_clips:
        raise ValueError(f"the corpus has {len(durations)} clips; a batch needs at least {min_clips}")
    durations = np.asarray(durations)
    shortest = min(float(durations.min()), max_seconds)
    if not shortest > 0:
        row = int(np.flatnonzero(~(durations > 0))[0])
        raise ValueError(f"clip {row} has a duration of {durations[row]} s; durations must be positive")
    if order is None:
        order = np.arange(len(durations), dtype=np.int32 if len(durations) < 2**31 else np.int64)
        np.random.default_rng((seed, epoch)).shuffle(order)
    elif len(order) < min_clips:
        raise ValueError(f"epoch {epoch} has {len(order)} clips; a batch needs at least {min_clips}")
    return _fill(order, durations, batch_seconds, max_seconds, max_clips or len(order), min_clips, shortest)


def _fill(
    order: np.ndarray,
    durations: np.ndarray,
    batch_seconds: float,
    max_seconds: float,
    max_clips: int,
    min_clips: int,
    shortest: float,
) -> Iterator[list[int]]:
    limit = batch_seconds * (1 + 1e-9)  # ten clips of 0.1 s fill one second, whatever the rounding
    start, window = 0, 2 * min_clips
    while start < len(order):
        rows = order[start : start + window]
        filled = np.cumsum(np.minimum(durations[rows], max_seconds, dtype=np.float64))
        size = min(max(int(np.searchsorted(filled, limit, side="right")), min_clips), max_clips)
        if size < len(rows):  # the next clip is known, and is one too many
            yield rows[:size].tolist()
            start, window = start + size, 2 * size
        elif start + window < len(order):
            window *= 2
        else:
            full = len(rows) == max_clips or (len(rows) >= min_clips and filled[-1] + shortest > limit)
            if full or start == 0:
                yield rows.tolist()
            return


def share(
    batch: Sequence[int], durations: Sequence[float], rank: int, world: int, max_seconds: float = 30.0
) -> list[int]:
    """The part of a global batch that one rank computes: the parts are disjoint, complete and about equally long.

    Args:
        batch: rows of the corpus, as from `plan_epoch`.
        durations: seconds of each clip of the corpus.
        rank: 0 <= rank < world.
        world: number of ranks.
        max_seconds: as in `plan_epoch`.
    Returns:
        Its rows, in the order of the batch; none for some ranks where there are fewer clips than ranks.
    Raises:
        ValueError: a rank that does not exist, or a duration that is not a number.
    """
    owners = _owners(batch, durations, world, max_seconds)
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; expected 0 <= rank < world")
    return [index for index, owner in zip(batch, owners, strict=True) if owner == rank]


def rank_batches(
    plan: Iterable[Sequence[int]],
    durations: Sequence[float],
    epoch: int,
    rank: int = 0,
    world: int = 1,
    max_seconds: float = 30.0,
    accumulation: int = 1,
) -> Iterator[list[ClipRef]]:
    """An epoch's batches for one rank, for a DataLoader's `batch_sampler`; `run_batches` gives those of a run.

    Args:
        plan: the whole epoch, from `plan_epoch`; positions count from its first clip.
        durations: seconds of each clip of the corpus.
        epoch: the one that was planned.
        rank: 0 <= rank < world.
        world: number of ranks.
        max_seconds: as in `plan_epoch`.
        accumulation: micro-batches of a step; they come one after the other. A global batch is cut as for `world` x
            `accumulation` ranks, of which rank r is number r x `accumulation` and the next ones.
    Raises:
        ValueError: as in `share`.
    """
    start = 0
    for batch in plan:
        yield from _micro_batches(batch, start, durations, epoch, rank, world, max_seconds, accumulation)
        start += len(batch)


def run_batches(
    durations: Sequence[float],
    batch_seconds: float,
    seed: int,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world: int = 1,
    max_seconds: float = 30.0,
    max_clips: int | None = None,
    accumulation: int = 1,
    order: Callable[[int], np.ndarray] | None = None,
) -> Iterator[list[ClipRef]]:
    """One rank's batches of the steps `first_step` <= step < `last_step`, epoch after epoch: a function of the seed.

    Args:
        durations, batch_seconds, seed, max_seconds, max_clips: as in `plan_epoch`.
        rank, world, accumulation: as in `rank_batches`; every step has `accumulation` micro-batches, some of them empty
            where it has few clips.
        order: the rows of an epoch, from its number, as from `sampling.epoch_orders`; default: as in `plan_epoch`.
    Raises:
        ValueError: as in `plan_epoch` and `share`.
    """
    durations, step = np.asarray(durations), 0
    for epoch in itertools.count() if first_step < last_step else ():
        start = 0
        rows = None if order is None else order(epoch)
        for batch in plan_epoch(durations, batch_seconds, seed, epoch, max_seconds, max_clips, order=rows):
            if step >= first_step:
                yield from _micro_batches(batch, start, durations, epoch, rank, world, max_seconds, accumulation)
            start += len(batch)
            step += 1
            if step == last_step:
                return


def padding_share(clip_frames: Sequence[int]) -> float:
    """The share of a padded (B, T, M) batch that would be padding: what packing saves. 0 <= share < 1."""
    return 1.0 - sum(clip_frames) / (len(clip_frames) * max(clip_frames))


def _micro_batches(
    batch: Sequence[int],
    start: int,
    durations: Sequence[float],
    epoch: int,
    rank: int,
    world: int,
    max_seconds: float,
    accumulation: int,
) -> list[list[ClipRef]]:
    if not 0 <= rank < world or accumulation < 1:
        raise ValueError(
            f"rank {rank} of {world} with {accumulation} micro-batches; expected 0 <= rank < world, 1 <= accumulation"
        )
    parts = [[] for _ in range(world * accumulation)]
    for place, owner in enumerate(_owners(batch, durations, world * accumulation, max_seconds)):
        parts[owner].append(ClipRef(epoch, start + place, batch[place]))
    return parts[rank * accumulation : (rank + 1) * accumulation]


def _owners(batch: Sequence[int], durations: Sequence[float], world: int, max_seconds: float) -> list[int]:
    """The rank of every clip of the batch. The longest clip first, each goes to the rank with the least to do."""
    seconds = [min(float(durations[index]), max_seconds) for index in batch]
    if any(map(math.isnan, seconds)):
        raise ValueError("a duration is not a number")
    owners = [0] * len(batch)
    loads = [(0.0, rank) for rank in range(world)]  # a heap: the rank with the least to do, then the first, is on top
    for place in sorted(range(len(batch)), key=lambda place: (-seconds[place], place)):
        load, rank = loads[0]
        owners[place] = rank
        heapq.heapreplace(loads, (load + seconds[place], rank))
    return owners
