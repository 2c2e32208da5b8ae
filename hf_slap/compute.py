"""What a training step costs and what the device could do: operations, matrix-multiply rate, memory.

Operations are multiplications and additions, two for each weight and token, of matrix products and attention on real
patches and words: neither padding nor what is computed again (activation checkpointing, cached embeddings) counts, so
an hour that is spent on either shows as lower utilisation (model FLOPs utilisation; PaLM, Chowdhery et al. 2022,
appendix B). Pooling heads, projections and the comparison of clips with captions are left out.
"""

import math
import time
from collections.abc import Callable, Mapping
from itertools import pairwise

import psutil
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from .modeling.configuration_slap import SlapAudioConfig
from .modeling.front_end_slap import audio_windows
from .modeling.modeling_slap import local_reach

_BACKWARD = 2  # the backward pass costs about twice the forward


def audio_operations(config: SlapAudioConfig, clip_frames: list[int]) -> float:
    """Of the audio encoder, forward, with the keys and values of its pooling head.

    Args:
        config: of the encoder.
        clip_frames: frames of each clip, whole patches.
    """
    tokens = [frames // config.patch_frames * config.patch_rows for frames in clip_frames]
    width, hidden, total = config.hidden_size, config.intermediate_size, sum(tokens)
    stem = sum(9 * before[0] * math.prod(after) for before, after in pairwise(config.patch_shapes))
    count = 2 * total * (stem + width * math.prod(config.patch_shapes[-1]))
    for kind in config.layer_types:
        reach = local_reach(config) if kind == "sliding_attention" else None
        count += 2 * total * (4 * width * width + 3 * width * hidden)
        count += sum(4 * n * width * (n if reach is None else min(n, 2 * reach + 1)) for n in tokens)
    return count + 2 * 2 * total * width * width


def window_operations(tower: nn.Module) -> float:
    """Of an audio encoder that hears windows of one length, for one window, forward; counted without computing."""
    config = tower.config
    named = {**dict(tower.named_parameters()), **dict(tower.named_buffers())}
    shapes = {
        f"tower.{name}": torch.empty(value.shape, dtype=value.dtype, device="meta") for name, value in named.items()
    }
    window = torch.empty(1, config.window_frames, config.num_mel_bins, dtype=tower.dtype, device="meta")
    lengths = torch.full((1,), config.window_frames, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        functional_call(_Encode(tower), shapes, (window, lengths))
    return float(counter.get_total_flops())


class _Encode(nn.Module):
    """The `encode` of a tower as a forward."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, windows: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.tower.encode(windows, lengths)


def step_operations(
    model: nn.Module, weights: Mapping[str, float], shared_masked_pass: bool = False
) -> Callable[[Mapping], float]:
    """How to count the operations of a training step, forward, backward and teacher, from its batch.

    Args:
        model: `SlapForPreTraining`, not wrapped: its weights are counted here, once.
        weights: of "contrastive", "masked" and "caption"; what has none is not computed.
        shared_masked_pass: one pass of the audio encoder serves all losses.
    Returns:
        A function of the collator's batch (while it is still in the loader's memory, so that nothing waits).
    """
    config, slap, decoder = model.config, model.slap, model.decoder
    head = model.prototype_head or nn.Module()
    audio_times, head_times = _times(slap.audio_model), _times(head)
    text, text_times = config.text_config, _times(slap.text_model)
    text_weights, head_weights = _weights_per_token(slap.text_model), _weights_per_token(head)
    per_window = None if isinstance(config.audio_config, SlapAudioConfig) else window_operations(slap.audio_model)
    if weights["caption"]:
        cross = sum(_weights_per_token(p) for x in decoder.layers for p in (x.cross_attn.k_proj, x.cross_attn.v_proj))
        word_weights = _weights_per_token(decoder) - cross + model.lm_head.weight.numel()
        width, layers, decoder_times = decoder.config.hidden_size, len(decoder.layers), _times(decoder)
    clean = bool(weights["contrastive"] or weights["caption"]) and not (weights["masked"] and shared_masked_pass)

    def count(batch: Mapping) -> float:
        if per_window is None:
            once = audio_operations(config.audio_config, batch["clip_frames"])
        else:
            once = per_window * sum(len(audio_windows(n, config.audio_config)) for n in batch["clip_frames"])
        total = audio_times * once * (clean + bool(weights["masked"]))
        if weights["masked"]:
            predicted = int(batch["patch_mask"].sum())
            total += once + (head_times + 1) * 2 * head_weights * predicted  # + the teacher's pass
        if weights["contrastive"]:
            lengths = batch["attention_mask"].sum(1).tolist()
            attention = sum(4 * n * n for n in lengths) * text.hidden_size * text.num_hidden_layers
            total += text_times * (2 * text_weights * sum(lengths) + attention)
        if weights["caption"]:
            words = (batch["labels"] != -100).sum(1).tolist()
            seen = list(zip(words, batch["clip_tokens"], strict=True))
            attention = sum(4 * n * (n + patches) for n, patches in seen) * width * layers
            matrices = 2 * word_weights * sum(words) + 2 * cross * sum(batch["clip_tokens"])
            total += decoder_times * (matrices + attention)
        return float(total)

    return count


def _times(module: nn.Module) -> int:
    """Forward, and backward where anything learns."""
    return 1 + (_BACKWARD if any(parameter.requires_grad for parameter in module.parameters()) else 0)


def _weights_per_token(module: nn.Module) -> int:
    """Entries of the matrices that every token is multiplied with; an embedding is looked up, not multiplied."""
    parts = [part for part in module.modules() if not isinstance(part, nn.Embedding)]
    return sum(p.numel() for part in parts for p in part.parameters(recurse=False) if p.dim() >= 2)


def matmul_probe(device: str | torch.device, dtype: torch.dtype, repeats: int) -> tuple[Callable[[], None], float]:
    """Matrix products as large as the device likes them, and how many operations a call of them is."""
    rows, inner, columns = (8192, 8192, 8192) if torch.device(device).type == "cuda" else (1024, 768, 3072)
    generator = torch.Generator(device).manual_seed(0)  # its own: a run's random state is left alone
    shapes = (rows, inner), (inner, columns)
    left, right = (torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes)
    out = torch.empty(rows, columns, device=device, dtype=dtype)

    def multiply() -> None:
        for _ in range(repeats):
            torch.mm(left, right, out=out)

    return multiply, repeats * 2.0 * rows * inner * columns


@torch.no_grad()
def matmul_rate(device: str | torch.device, dtype: torch.dtype, rounds: int = 3) -> float:
    """Operations per second of matrix products in this process, the best of some rounds; 0.1 to 0.3 s altogether."""
    on_cuda = torch.device(device).type == "cuda"
    multiply, operations = matmul_probe(device, dtype, repeats=10 if on_cuda else 1)
    fastest = float("inf")
    for number in range(rounds + 1):
        start = time.perf_counter()
        multiply()
        if on_cuda:
            torch.cuda.synchronize()
        took = time.perf_counter() - start
        if number or took > 1:  # the first warms up
            fastest = min(fastest, took)
        if took > 1:  # a type that the device only emulates
            break
    return operations / fastest


def memory_gb(device: str | torch.device) -> float:
    """GB (1e9 bytes) of this process: the most so far on a CUDA device, at this moment in the memory of the machine."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
