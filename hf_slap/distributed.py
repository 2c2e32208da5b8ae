"""Ranks: the one file that knows how many processes there are and who is the first.

Everything here is the identity, or a constant, on a single process, so the code that calls it is written
once.

All sums are taken such that **the mean of the ranks' gradients is the gradient of one process that saw the
whole batch**, because a mean is what DistributedDataParallel and FSDP apply. Two rules follow, and
`objectives` keeps both: embeddings that other ranks compare themselves with go through
`gather_with_gradient`, and the mean over a rank's own clips (or words) is multiplied by `share_of_mean`,
because ranks hold different numbers of clips.
"""

import torch
import torch.distributed as dist
from torch import Tensor


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


def share_of_mean(count: int) -> float:
    """What a rank's mean over `count` items weighs in the mean over all ranks' items, times the number of
    ranks.

    The mean over ranks of `share_of_mean(count) * mean_of_my_items` is the mean over the items of all ranks,
    however unevenly they are spread. 1.0 on a single process.

    Args:
        count: this rank's number of items (clips, or words of captions); 0 is allowed.
    Returns:
        count * ranks / items of all ranks; 0.0 when no rank has any.
    """
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


def _gather(x: Tensor, rows: list[int]) -> Tensor:
    # all_gather wants equal shapes: rows are padded to the longest rank's and cut off again.
    padded = x.new_zeros((max(rows), *x.shape[1:]))
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])
