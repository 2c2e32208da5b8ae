"""Attention over packed clips: one rule, interchangeable back ends.

All clips of a batch stand one after another in a single sequence without padding. The rule: query i sees key j when
both belong to the same clip and, in local layers, when they are near each other. Every back end computes exactly this;
they differ in speed, in memory and in the machines they run on.

    eager    softmax written out, clip by clip; the plainest
    clips    one fused call per run of neighbouring clips of equal length; no padding, no mask in global layers
    banded   local layers in blocks with a halo, whatever the clips: linear in the total number of tokens
    padded   one fused call over the batch padded to its longest clip; for machines without the kernels below
    varlen   torch.nn.attention.varlen (flash attention with clip borders and a window): CUDA, half precision
    flex     FlexAttention with a block mask made from the borders: CUDA with Triton; on CPU forward only

Letters: T tokens of all clips, B clips, H heads, D dimensions of a head.
"""

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

BAND_BLOCK = 48  # queries in one block of the banded back end; measured best for a reach of 48 tokens
FLEX_BLOCK = 128


class PackedLayout:
    """Where the clips of a packed batch lie. Made once per batch from lengths known on the host.

    Args:
        lengths: tokens of each clip, in order; at least one each.
        rows: tokens that share one moment (patch rows of a column); tokens are time-major.
        device: where the index tensors live.
        exact_columns: measure the local window in columns instead of along the token index.
    """

    def __init__(
        self,
        lengths: list[int],
        rows: int = 1,
        device: torch.device | str | None = None,
        exact_columns: bool = False,
    ):
        self.lengths = [int(n) for n in lengths]
        self.rows, self.device, self.exact_columns = rows, device, exact_columns
        self.total, self.longest = sum(self.lengths), max(self.lengths)
        counts = torch.tensor(self.lengths)
        starts = F.pad(counts.cumsum(0), (1, 0))  # (B + 1,)
        clip = torch.repeat_interleave(torch.arange(len(counts)), counts)  # (T,)
        index = torch.arange(self.total) - starts[clip]  # (T,) token index inside its clip
        self.cu_seqlens = starts.to(device, torch.int32)
        self.clip, self.index = clip.to(device), index.to(device)
        self._kept: dict = {}

    @property
    def column(self) -> Tensor:
        """(T,) patch column, the time coordinate."""
        return self.keep("column", lambda: self.index // self.rows)

    @property
    def row(self) -> Tensor:
        """(T,) patch row, the frequency coordinate."""
        return self.keep("row", lambda: self.index % self.rows)

    @property
    def place(self) -> Tensor:
        """(T,) what the local window is measured on: the token index, or the column."""
        return self.column if self.exact_columns else self.index

    @property
    def runs(self) -> list[tuple[int, int]]:
        """(number of clips, tokens of each) for every run of neighbours of equal length."""

        def make() -> list[tuple[int, int]]:
            runs: list[tuple[int, int]] = []
            for length in self.lengths:
                if runs and runs[-1][1] == length:
                    runs[-1] = (runs[-1][0] + 1, length)
                else:
                    runs.append((1, length))
            return runs

        return self.keep("runs", make)

    def reach(self, window: int) -> int:
        """Largest distance along the token index between two tokens that see each other."""
        return (window + 1) * self.rows - 1 if self.exact_columns else window

    def keep(self, key, make: Callable):
        """Value of `make()`, computed once per batch."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def padded_index(self) -> Tensor:
        """(B, longest) packed index of every padded position; T where there is no token."""

        def make() -> Tensor:
            table = torch.full((len(self.lengths), self.longest), self.total, device=self.device)
            table[self.clip, self.index] = torch.arange(self.total, device=self.device)
            return table

        return self.keep("padded_index", make)

    def pad(self, x: Tensor) -> Tensor:
        """(T, ...) packed to (B, longest, ...) padded with zeros."""
        if len(self.runs) == 1:
            return x.view(len(self.lengths), self.longest, *x.shape[1:])
        return torch.cat([x, x.new_zeros(1, *x.shape[1:])])[self.padded_index()]

    def unpad(self, x: Tensor) -> Tensor:
        """(B, longest, ...) padded to (T, ...) packed."""
        return x[self.mask()]

    def mask(self) -> Tensor:
        """(B, longest) bool, True at tokens."""
        return self.keep("mask", lambda: self.padded_index() < self.total)


class UnpackedLayout(PackedLayout):
    """A batch that keeps its padding, for exported graphs: no length is read on the host.

    What is (T, ...) elsewhere is (B, longest, ...) here, and only the padded back end reads it.

    Args:
        mask: (B, longest) bool, True at tokens, which come first.
        rows, exact_columns: as for `PackedLayout`.
    """

    def __init__(self, mask: Tensor, rows: int = 1, exact_columns: bool = False):
        self.lengths = []
        self.rows, self.device, self.exact_columns = rows, mask.device, exact_columns
        self.longest = mask.shape[1]
        self.index = torch.arange(self.longest, device=mask.device)
        self._kept = {"mask": mask}

    def pad(self, x: Tensor) -> Tensor:
        return x

    def unpad(self, x: Tensor) -> Tensor:
        return x


def near(a: Tensor, b: Tensor, window: int | None) -> Tensor | None:
    """(len(a), len(b)) bool: places within `window` of each other; None when there is no window."""
    return None if window is None else (a[:, None] - b[None, :]).abs() <= window


def _eager(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    out = []
    pieces = zip(*(x.split(layout.lengths) for x in (q, k, v, layout.place)), strict=True)
    for q_clip, k_clip, v_clip, place in pieces:
        scores = torch.einsum("ihd,jhd->hij", q_clip, k_clip) * q.shape[-1] ** -0.5
        if window is not None:
            scores = scores.masked_fill(~near(place, place, window), float("-inf"))
        weights = scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype)
        out.append(torch.einsum("hij,jhd->ihd", weights, v_clip))
    return torch.cat(out)


def _clips(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    heads, size = q.shape[1:]
    sizes = [clips * length for clips, length in layout.runs]
    out = []
    # split, not slices: the backward of a slice writes a gradient of the size of the whole batch
    for (clips, length), *qkv in zip(layout.runs, *(x.split(sizes) for x in (q, k, v)), strict=True):
        place = torch.arange(length, device=q.device) // (layout.rows if layout.exact_columns else 1)
        far = length > layout.reach(window) + 1 if window is not None else False
        mask = layout.keep(("band", window, length), lambda at=place: near(at, at, window)) if far else None
        q_run, k_run, v_run = (x.view(clips, length, heads, size).transpose(1, 2) for x in qkv)
        run = F.scaled_dot_product_attention(q_run, k_run, v_run, attn_mask=mask)
        out.append(run.transpose(1, 2).reshape(clips * length, heads, size))
    return torch.cat(out) if len(out) > 1 else out[0]


def _banded(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    if window is None:
        return _clips(q, k, v, layout, None)
    total, heads, size = q.shape
    reach = layout.reach(window)
    block = max(BAND_BLOCK, reach)  # the halo of a block is then within its two neighbours
    blocks = -(-total // block)
    tail = blocks * block - total

    def make() -> Tensor:  # (blocks, 1, block, block + 2 reach) bool
        def views(x: Tensor, nothing: int) -> tuple[Tensor, Tensor]:
            keys = F.pad(x, (reach, reach + tail), value=nothing).unfold(0, block + 2 * reach, block)
            return F.pad(x, (0, tail), value=-1).view(blocks, block, 1), keys[:, None]

        clip_of_query, clip_of_key = views(layout.clip, -2)
        place_of_query, place_of_key = views(layout.place, 0)
        seen = (clip_of_query == clip_of_key) & ((place_of_query - place_of_key).abs() <= window)
        return seen[:, None]

    def with_halo(x: Tensor) -> Tensor:  # (blocks, H, block + 2 reach, D)
        if not (torch.is_grad_enabled() and x.requires_grad):
            x = F.pad(x, (0, 0, 0, 0, reach, reach + tail))
            return x.unfold(0, block + 2 * reach, block).transpose(2, 3)  # overlapping views, no copy
        x = F.pad(x, (0, 0, 0, 0, 0, tail)).view(blocks, block, heads, size)
        before = F.pad(x[:-1, block - reach :], (0, 0, 0, 0, 0, 0, 1, 0))
        after = F.pad(x[1:, :reach], (0, 0, 0, 0, 0, 0, 0, 1))
        return torch.cat([before, x, after], 1).transpose(1, 2)  # the backward of unfold would be slower

    queries = F.pad(q, (0, 0, 0, 0, 0, tail)).view(blocks, block, heads, size).transpose(1, 2)
    mask = layout.keep(("banded", window), make)
    out = F.scaled_dot_product_attention(queries, with_halo(k), with_halo(v), attn_mask=mask)
    return out.transpose(1, 2).reshape(blocks * block, heads, size)[:total]


def _padded(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    def make() -> Tensor:  # (B, 1, longest or 1, longest) bool
        mask = layout.mask()[:, None, None, :]
        if window is not None:
            place = torch.arange(layout.longest, device=q.device) // (layout.rows if layout.exact_columns else 1)
            itself = torch.eye(layout.longest, dtype=torch.bool, device=q.device)  # padding must see something
            mask = mask & near(place, place, window) | itself
        return mask

    mask = layout.keep(("padded", window), make)
    q, k, v = (layout.pad(x).transpose(1, 2) for x in (q, k, v))
    return layout.unpad(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2))


def _varlen(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if layout.exact_columns and window is not None:
        raise ValueError("local_window_unit='exact_columns' cannot be expressed by flash kernels; use 'flex'")
    reach = (-1, -1) if window is None else (window, window)
    starts, longest = layout.cu_seqlens, layout.longest
    return varlen_attn(q, k, v, starts, starts, longest, longest, window_size=reach)


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None) -> Tensor:
    if q.device.type == "cpu" and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        raise NotImplementedError(
            "flex_attention has no backward on CPU; train with attn_implementation='sdpa', or embed under "
            "torch.no_grad()"
        )
    tail = -layout.total % FLEX_BLOCK
    mask = layout.keep(("flex", window), lambda: _flex_block_mask(layout, window, tail))
    q, k, v = (F.pad(x, (0, 0, 0, 0, 0, tail)).transpose(0, 1)[None] for x in (q, k, v))
    attend = _compiled_flex_attention() if q.device.type == "cuda" else _flex_attention
    return attend(q, k, v, block_mask=mask)[0].transpose(0, 1)[: layout.total]


def _flex_block_mask(layout: PackedLayout, window: int | None, tail: int):
    """Block mask made from the borders alone: its cost is linear in T, a dense T x T mask is never built."""
    from torch.nn.attention.flex_attention import BlockMask

    clip = F.pad(layout.clip, (0, tail), value=-1)  # the tail sees itself
    place = F.pad(layout.place, (0, tail), value=0)
    starts = torch.tensor([0, *layout.lengths]).cumsum(0)
    clip_host = layout.clip.cpu()
    first, last = starts[clip_host], starts[clip_host + 1] - 1  # (T,) keys each query may see
    if window is not None:
        at, reach = torch.arange(layout.total), layout.reach(window)
        first, last = torch.maximum(first, at - reach), torch.minimum(last, at + reach)
    if tail:
        edge = torch.tensor([layout.total, layout.total + tail - 1])
        first, last = torch.cat([first, edge[:1].expand(tail)]), torch.cat([last, edge[1:].expand(tail)])
    first_block = first.view(-1, FLEX_BLOCK).amin(1) // FLEX_BLOCK  # (blocks,)
    last_block = last.view(-1, FLEX_BLOCK).amax(1) // FLEX_BLOCK
    counts = last_block - first_block + 1
    blocks = len(counts)
    indices = (first_block[:, None] + torch.arange(blocks)) % blocks  # only the first `counts` of a row are read

    def sees(batch, head, query, key):
        same = clip[query] == clip[key]
        return same if window is None else same & ((place[query] - place[key]).abs() <= window)

    return BlockMask.from_kv_blocks(
        counts[None, None].to(layout.device, torch.int32),
        indices[None, None].to(layout.device, torch.int32),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=sees,
    )


def _flex_attention(*args, **kwargs):
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(*args, **kwargs)


@cache
def _compiled_flex_attention() -> Callable:
    return torch.compile(_flex_attention, dynamic=True)


BACKENDS: dict[str, Callable] = {
    "eager": _eager,
    "clips": _clips,
    "banded": _banded,
    "padded": _padded,
    "varlen": _varlen,
    "flex": _flex,
}


def choose_backend(q: Tensor, layout: PackedLayout, window: int | None) -> str:
    """The fastest exact back end for this tensor on its machine (measured on CPU; on paper for CUDA)."""
    if q.device.type == "cuda":
        size, half = q.shape[-1], q.dtype in (torch.float16, torch.bfloat16)
        flash = half and size % 8 == 0 and torch.cuda.get_device_capability(q.device) >= (8, 0)
        if flash and (window is None or not layout.exact_columns):
            return "varlen"
        compiles = size >= 16 and q.dtype != torch.float64 and find_spec("triton") is not None
        return "flex" if compiles else "padded"
    if window is None:
        return "clips"
    training = torch.is_grad_enabled() and q.requires_grad
    return "banded" if layout.longest > (8 if training else 4) * layout.reach(window) else "clips"


@torch.compiler.disable  # its shapes are lists of lengths: a compiler would compile anew for every batch
def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: PackedLayout, window: int | None = None, backend: str = "auto"
) -> Tensor:
    """Attention in which every token sees the tokens of its own clip, all of them or those within the window.

    Args:
        q, k, v: (T, H, D), packed over clips; scores are scaled by D ** -0.5.
        layout: borders of the clips.
        window: reach on each side, in tokens (in columns when the layout says `exact_columns`); None is global.
        backend: name in `BACKENDS`, or "auto".
    Returns:
        (T, H, D).
    Raises:
        ValueError: unknown back end, or a rule that the back end cannot express.
        NotImplementedError: gradients asked of a back end that has none on this machine.
    Paper: SLAP, section 2 (packing with per-clip borders; local and global layers).
    """
    if isinstance(layout, UnpackedLayout):
        backend = "padded"
    if backend == "auto":
        backend = choose_backend(q, layout, window)
    if backend not in BACKENDS:
        raise ValueError(f"attention backend {backend!r} is unknown; accepted are {['auto', *BACKENDS]}")
    return BACKENDS[backend](q, k, v, layout, window)
