"""Ranks: the one file that knows how many processes there are and who is the first.

Everything here is the identity, or a constant, on a single process, so the code that calls it is written
once.

All sums are taken such that **the mean of the ranks' gradients is the gradient of one process that saw the
whole batch**, because a mean is what DistributedDataParallel and FSDP apply. Two rules follow, and
`objectives` keeps both: embeddings that other ranks compare themselves with go through
`gather_with_gradient`, and the mean over a rank's own clips (or words) is multiplied by `share_of_mean`,
because ranks hold different numbers of clips.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Result = TypeVar("Result")


def is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def is_main() -> bool:
    """True on the one process that prints, logs and writes files."""
    return rank() == 0


def wait_for_everyone() -> None:
    if is_distributed():
        dist.barrier()


def raise_together(error: Exception | None) -> None:
    """Call on all ranks after work that only the first does: when it failed there, every rank stops.

    Args:
        error: what went wrong on this rank, None when nothing did.
    Raises:
        The error itself where it happened, RuntimeError on the other ranks.
    """
    failed = error is not None
    if is_distributed():
        failed = bool(max_over_ranks(torch.tensor([failed], dtype=torch.int64, device=_device())))
    if error is not None:
        raise error
    if failed:
        raise RuntimeError("another process failed; its message says why")


def main_first(function: Callable[[], Result]) -> Result:
    """Calls `function` on the first process, then on the others, which read what the first has put into caches.

    Raises:
        the error itself where one occurred, RuntimeError on all other ranks: nobody is left waiting.
    """
    result = error = None
    for turn in (is_main(), not is_main()):
        if turn:
            try:
                result = function()
            except Exception as reason:
                error = reason
        raise_together(error)
    return result


def on_main(function: Callable[[], object]) -> None:
    """Calls `function` on the first process, such as to write a file; when it fails there, every rank stops."""
    main_first(function if is_main() else lambda: None)


def together(batches: Iterable[Result]) -> Iterator[Result]:
    """Goes through the batches of this rank; where one cannot be made on some rank, every rank stops.

    Args:
        batches: as many on every rank.
    """
    source = iter(batches)
    while True:
        batch = error = None
        try:
            batch = next(source)
        except StopIteration:
            return
        except Exception as reason:
            error = reason
        raise_together(error)
        yield batch


def _device() -> torch.device:
    """Where the process group can add up numbers that live on no device yet."""
    return torch.device("cuda" if "nccl" in str(dist.get_backend_config()) else "cpu")


def sum_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of x over all ranks, without a gradient; x itself is left alone.

    Args:
        x: any shape, the same on every rank.
        group: the process group; None is the default one.
    """
    return _reduced(x, dist.ReduceOp.SUM, group) if is_distributed() else x.detach()


def max_over_ranks(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The element-wise maximum of x over all ranks, without a gradient."""
    return _reduced(x, dist.ReduceOp.MAX, group) if is_distributed() else x.detach()


def _reduced(x: Tensor, operation: dist.ReduceOp, group: dist.ProcessGroup | None) -> Tensor:
    x = x.detach().clone()
    dist.all_reduce(x, operation, group=group)
    return x


def share_of_mean(count: int, everyone: int | None = None) -> float:
    """What a rank's mean over `count` items weighs in the mean over all ranks' items, times the number of
    ranks.

    The mean over ranks of `share_of_mean(count) * mean_of_my_items` is the mean over the items of all ranks,
    however unevenly they are spread. 1.0 on a single process.

    Args:
        count: this rank's number of items (clips, or words of captions); 0 is allowed.
        everyone: the items of all ranks, where they are known; with accumulation, those of all micro-batches too. The
            values of a rank's micro-batches are then added up.
    Returns:
        count * ranks / items of all ranks; 0.0 when no rank has any.
    """
    if everyone is None:
        if not is_distributed():
            return 1.0
        everyone = sum_over_ranks(torch.tensor([count], dtype=torch.int64, device=_device())).item()
    return count * world_size() / everyone if everyone else 0.0


def rows_per_rank(x: Tensor) -> list[int]:
    """How many rows (first axis) each rank holds, in the order of ranks."""
    if not is_distributed():
        return [len(x)]
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], dtype=torch.int64, device=x.device))
    return [int(count) for count in counts]


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all ranks in the order of ranks, without a gradient. Ranks may hold different numbers of
    rows.

    Args:
        x: (rows of this rank, ...), all other axes and the type equal on every rank.
    Returns:
        (rows of all ranks, ...)
    """
    if not is_distributed():
        return x.detach()
    return _gather(x.detach(), rows_per_rank(x))


def gather_with_gradient(x: Tensor) -> Tensor:
    """`gather_rows` that gradients flow through: each rank's rows receive what every rank's loss says about
    them.

    Args:
        x: (rows of this rank, ...), float.
    Returns:
        (rows of all ranks, ...); x itself on a single process.
    """
    return _GatherWithGradient.apply(x) if is_distributed() else x


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = rows_per_rank(x)
        return _gather(x, ctx.rows)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient).split(ctx.rows)[rank()]


def gather_objects(value: Result) -> list[Result]:
    """A small Python value of every rank, in the order of ranks, such as a dict of sums whose keys differ."""
    if not is_distributed():
        return [value]
    everyone: list[Result | None] = [None] * world_size()
    dist.all_gather_object(everyone, value)
    return everyone


def _gather(x: Tensor, rows: list[int]) -> Tensor:
    # all_gather wants equal shapes: rows are padded to the longest rank's and cut off again.
    padded = x.new_zeros((max(rows), *x.shape[1:]))
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])


def merge_over_ranks(values: dict) -> dict:
    """The entries of every rank's dictionary, in the order of their keys. Values are pickled on the way."""
    if not is_distributed():
        return dict(sorted(values.items()))
    parts = [None] * world_size()
    dist.all_gather_object(parts, values)
    return dict(sorted((key, value) for part in parts for key, value in part.items()))
