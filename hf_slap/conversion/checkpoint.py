"""A published checkpoint read without running code, and its keys renamed with none left over."""

import math
import os
import pickle
import re

import numpy as np
import torch
from torch import Tensor, nn

# Numbers that training code left beside the weights; nothing that these rebuild can run code.
_NUMPY_TYPES = [np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?"))]
_WRAPPERS = ("model", "state_dict")  # where checkpoints keep the weights beside the optimiser's state


class ConversionError(ValueError):
    """A checkpoint is not what a converter knows; the message says what came and what to do."""


def read_checkpoint(path: str | os.PathLike) -> dict[str, Tensor]:
    """The weights of a checkpoint, by their names there, without the `module.` of distributed training.

    Args:
        path: a file that `torch.save` wrote: the weights, or a dictionary that has them under "model" or "state_dict".
    Returns:
        tensors on the CPU.
    Raises:
        FileNotFoundError: no such file.
        ConversionError: damaged, without weights, or with objects whose loading could run code.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file {str(path)!r}; give the checkpoint's .pth, .pt or .ckpt file")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ConversionError(
            f"{path} is no checkpoint of PyTorch's, damaged, or holds other things than tensors and numbers, whose "
            "loading could run code; download it again, or save its weights alone with torch.save"
        ) from error
    for name in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConversionError(
            f"{path} holds no table of tensors, neither at its top nor under {' or '.join(map(repr, _WRAPPERS))}"
        )
    return {key.removeprefix("module."): value for key, value in content.items()}


def _numpy_globals() -> list:
    """Under the names that both generations of numpy wrote."""
    scalar = np.float32(0).__reduce__()[0]
    return [*_NUMPY_TYPES, *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core"))]


def rename(
    state: dict[str, Tensor], rules: dict[str, str], dropped: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Names of a checkpoint to ours. Every key must be known.

    Args:
        state: tensors by their names in the checkpoint.
        rules: regular expressions that match a whole name, and the new name (`\\1` is the first group).
        dropped: regular expressions of what is left out, each with its reason.
    Returns:
        tensors by their new names, and the reason of every key that was left out.
    Raises:
        ConversionError: keys that no rule knows, or two that become one.
    """
    renamed, left_out, unknown = {}, {}, []
    for key, value in state.items():
        reason = next((why for pattern, why in dropped.items() if re.fullmatch(pattern, key)), None)
        if reason is not None:
            left_out[key] = reason
            continue
        rule = next(((pattern, new) for pattern, new in rules.items() if re.fullmatch(pattern, key)), None)
        if rule is None:
            unknown.append(key)
            continue
        new_key = re.sub(*rule, key)
        if new_key in renamed:
            raise ConversionError(f"{key} and another key of the checkpoint both become {new_key}")
        renamed[new_key] = value
    if unknown:
        raise ConversionError(
            f"the checkpoint holds {len(unknown)} keys that this version does not have: {_some(unknown)}; is it of "
            "another version, or a modified model?"
        )
    return renamed, left_out


def load_strictly(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Weights into a model that needs each of them and no other.

    Raises:
        ConversionError: missing keys, keys without a place, or other shapes.
    """
    places = model.state_dict()
    missing, unplaced = sorted(places.keys() - state.keys()), sorted(state.keys() - places.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(places[key].shape)}"
        for key in places.keys() & state.keys()
        if state[key].shape != places[key].shape
    ]
    said = [
        f"{what}: {_some(keys)}"
        for what, keys in (("missing", missing), ("without a place", unplaced), ("of another shape", sorted(shapes)))
        if keys
    ]
    if said:
        raise ConversionError(f"the checkpoint does not fit {type(model).__name__}; {'; '.join(said)}")
    model.load_state_dict(state)


def split_qkv(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """HTSAT keeps query, key and value in one matrix `...attn.qkv`; transformers wants three."""
    parts = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                parts[key.replace(".qkv.", f".{name}.")] = part.clone()
        else:
            parts[key] = value
    return parts


def htsat_rules(old: str, new: str) -> dict[str, str]:
    """Rules for `rename`: HTSAT's own names to those of transformers' `ClapAudioModel`, after `split_qkv`.

    Args:
        old, new: what stands before the names on each side, as in "audio_branch." and "audio_model.audio_encoder.".
    """
    names = {
        r"bn0\.": "batch_norm.",
        r"(patch_embed|norm)\.": r"\1.",
        r"(layers\.\d+\.downsample)\.": r"\1.",
        r"(layers\.\d+\.blocks\.\d+)\.norm1\.": r"\1.layernorm_before.",
        r"(layers\.\d+\.blocks\.\d+)\.norm2\.": r"\1.layernorm_after.",
        r"(layers\.\d+\.blocks\.\d+)\.mlp\.fc1\.": r"\1.intermediate.dense.",
        r"(layers\.\d+\.blocks\.\d+)\.mlp\.fc2\.": r"\1.output.dense.",
        r"(layers\.\d+\.blocks\.\d+)\.attn\.proj\.": r"\1.attention.output.dense.",
        r"(layers\.\d+\.blocks\.\d+)\.attn\.(?!qkv)": r"\1.attention.self.",
    }
    rest = {pattern: len(re.findall(r"\((?!\?)", pattern)) + 1 for pattern in names}
    return {rf"{re.escape(old)}{pattern}(.*)": rf"{new}{name}\{rest[pattern]}" for pattern, name in names.items()}


def htsat_dropped(old: str) -> dict[str, str]:
    """What of an HTSAT its embedding does not need, with reasons, for `rename`."""
    old = re.escape(old)
    return {
        rf"{old}layers\.\d+\.blocks\.\d+\.attn_mask": "mask of shifted windows: computed from the sizes",
        rf"{old}(tscam_conv|head)\..*": "classifies AudioSet's labels; the embedding is taken before it",
        **front_end_dropped(old),
    }


def front_end_dropped(old: str) -> dict[str, str]:
    """The front end that torchlibrosa keeps among the weights; `old` is a regular expression."""
    checked = "front end: compared with that of the feature extractor"
    return {
        rf"{old}spectrogram_extractor\.stft\.conv_(real|imag)\.weight": checked,
        rf"{old}logmel_extractor\.melW": checked,
    }


def htsat_sizes(state: dict[str, Tensor], old: str) -> dict:
    """Sizes of an HTSAT, from the shapes of its weights: keywords of `ClapAudioConfig`.

    Raises:
        ConversionError: no HTSAT there.
    """
    tables = {}  # heads of each block
    for key, value in state.items():
        found = re.fullmatch(rf"{re.escape(old)}layers\.(\d+)\.blocks\.\d+\.attn\.relative_position_bias_table", key)
        if found:
            tables.setdefault(int(found[1]), []).append(value.shape)
    try:
        channels, _, patch, _ = state[f"{old}patch_embed.proj.weight"].shape
        return {
            "num_mel_bins": len(state[f"{old}bn0.weight"]),
            "hidden_size": len(state[f"{old}norm.weight"]),
            "patch_embeds_hidden_size": channels,
            "patch_size": patch,
            "depths": [len(tables[stage]) for stage in sorted(tables)],
            "num_attention_heads": [tables[stage][0][1] for stage in sorted(tables)],
            "window_size": (math.isqrt(tables[0][0][0]) + 1) // 2,
        }
    except KeyError as error:
        raise ConversionError(f"the checkpoint holds no {error.args[0]!r}: it has no HTSAT under {old!r}") from error


def check_front_end(state: dict[str, Tensor], old: str, window: np.ndarray, filters: dict[str, np.ndarray]) -> str:
    """Which front end a checkpoint was trained with: it lies among its weights, and the original uses it from there.

    Args:
        old: what stands before `spectrogram_extractor` and `logmel_extractor`.
        window: (n,), of the transform of n samples.
        filters: (n // 2 + 1, M) each, mel filters by name; those expected first.
    Returns:
        the name of the filters that the checkpoint holds; the first where it holds none.
    Raises:
        ConversionError: another transform, or other filters.
    """
    angle = 2 * np.pi * np.outer(np.arange(len(window) // 2 + 1), np.arange(len(window))) / len(window)
    for part, wave in (("real", np.cos(angle)), ("imag", -np.sin(angle))):
        stored = state.get(f"{old}spectrogram_extractor.stft.conv_{part}.weight")
        if stored is not None:
            wanted = wave * window
            same = stored.shape == (wanted.shape[0], 1, len(window))
            if not same or np.abs(stored[:, 0].double().numpy() - wanted).max() > 1e-5:
                raise ConversionError(
                    f"the checkpoint's transform {tuple(stored.shape)} is not that of a Hann window of {len(window)} "
                    "samples: it was trained with another front end"
                )
    stored = state.get(f"{old}logmel_extractor.melW")
    if stored is None:
        return next(iter(filters))
    for name, wanted in filters.items():
        if stored.shape == wanted.shape and np.abs(stored.double().numpy() - wanted).max() < 1e-4 * wanted.max():
            return name
    raise ConversionError(
        f"the checkpoint's mel filters {tuple(stored.shape)} are none of those known: {', '.join(filters)}; it was "
        "trained with another front end"
    )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
