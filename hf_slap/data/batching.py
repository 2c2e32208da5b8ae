"""Which clips make up each optimizer step, and which rank computes which: pure functions of seed and epoch."""

import math
from collections.abc import Sequence
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
) -> list[list[int]]:
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
            negative), and at least the number of ranks.
    Returns:
        Lists of rows of the corpus. No row occurs twice.
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
    seconds = np.minimum(np.asarray(durations, dtype=np.float64), max_seconds)
    if not np.all(seconds > 0):
        row = int(np.flatnonzero(~(seconds > 0))[0])
        raise ValueError(f"clip {row} has a duration of {durations[row]} s; durations must be positive")

    limit = batch_seconds * (1 + 1e-9)  # ten clips of 0.1 s fill one second, whatever the rounding
    order = np.random.default_rng((seed, epoch)).permutation(len(seconds)).tolist()
    batches, batch, filled = [], [], 0.0
    for index, clip in zip(order, seconds[order].tolist(), strict=True):
        if len(batch) >= min_clips and (filled + clip > limit or len(batch) == max_clips):
            batches.append(batch)
            batch, filled = [], 0.0
        batch.append(index)
        filled += clip
    full = len(batch) >= min_clips and (filled + float(seconds.min()) > limit or len(batch) == max_clips)
    return batches + [batch] if full or not batches else batches


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
        At least one row, in the order of the batch.
    Raises:
        ValueError: a rank that does not exist, or fewer clips than ranks.
    """
    return [batch[place] for place in _places(batch, durations, rank, world, max_seconds)]


def rank_batches(
    plan: Sequence[Sequence[int]],
    durations: Sequence[float],
    epoch: int,
    rank: int = 0,
    world: int = 1,
    max_seconds: float = 30.0,
) -> list[list[ClipRef]]:
    """An epoch's batches for one rank, for a DataLoader's `batch_sampler`. To resume, leave out the first ones.

    Args:
        plan: the whole epoch, from `plan_epoch`; positions count from its first clip.
        durations: seconds of each clip of the corpus.
        epoch: the one that was planned.
        rank: 0 <= rank < world.
        world: number of ranks.
        max_seconds: as in `plan_epoch`.
    Raises:
        ValueError: as in `share`.
    """
    batches, start = [], 0
    for batch in plan:
        places = _places(batch, durations, rank, world, max_seconds)
        batches.append([ClipRef(epoch, start + place, batch[place]) for place in places])
        start += len(batch)
    return batches


def padding_share(clip_frames: Sequence[int]) -> float:
    """The share of a padded (B, T, M) batch that would be padding: what packing saves. 0 <= share < 1."""
    return 1.0 - sum(clip_frames) / (len(clip_frames) * max(clip_frames))


def _places(batch: Sequence[int], durations: Sequence[float], rank: int, world: int, max_seconds: float) -> list[int]:
    """Places in the batch that are the rank's. The longest clip first, each goes to the rank with the least to do."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}; expected 0 <= rank < world")
    if len(batch) < world:
        raise ValueError(
            f"a batch of {len(batch)} clips cannot be shared by {world} ranks; raise batch_seconds, "
            "or plan with min_clips at least the number of ranks"
        )
    seconds = [min(float(durations[index]), max_seconds) for index in batch]
    loads = [0.0] * world
    mine = []
    for place in sorted(range(len(batch)), key=lambda place: (-seconds[place], place)):
        least = min(range(world), key=lambda number: (loads[number], number))
        loads[least] += seconds[place]
        if least == rank:
            mine.append(place)
    if math.isnan(sum(loads)):
        raise ValueError("a duration is not a number")
    return sorted(mine)
