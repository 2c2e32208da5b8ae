"""What `slap info` tells: facts of models and of sounds, read without torch."""

import json
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..sound_files import AUDIO_SUFFIXES
from .inputs import Sound

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PARTS = {
    "audio encoder": "audio_model.",
    "text encoder": "text_model.",
    "caption decoder": "decoder.",
    "classes": "classifier.",
}
_PACKAGES = ("hf_slap", "torch", "transformers", "accelerate", "datasets", "soundfile", "torchcodec", "peft")


def is_model(thing: str) -> bool:
    """Whether it is the folder of a model, or may be a Hub id."""
    place = Path(thing).expanduser()
    if place.exists():
        return any((place / name).is_file() for name in ("config.json", "adapter_config.json"))
    return _HUB_ID.fullmatch(thing) is not None and place.suffix.lower() not in AUDIO_SUFFIXES


def model_facts(place: str) -> dict[str, Any]:
    """What the files of a model say: names, sizes, training, licence, scores.

    Raises:
        OSError: no such model, or the Hub cannot be reached.
    """
    folder = Path(place).expanduser()
    local = folder.is_dir()
    config = _read_json(place, "config.json") or _read_json(place, "adapter_config.json")
    card = _read(place, "README.md") or ""
    weights = _local_weights(folder) if local else _hub_weights(place)
    header = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    values = _yaml(header[1]) if header else {}
    facts: dict[str, Any] = {"model": folder.resolve().name if local else place}
    if local:
        facts["folder"] = str(folder)
    if base := config.get("base_model_name_or_path"):
        facts |= {"adapter of": base}
    else:
        facts |= {"architecture": ", ".join(config.get("architectures") or [config.get("model_type", "unknown")])}
    facts |= _hearing(config)
    sizes = {part: sum(n for name, n in weights.items() if prefix in name) for part, prefix in _PARTS.items()}
    facts["weights"] = f"{sum(weights.values()):,}"
    facts |= {part: _size(config, part, size) for part, size in sizes.items() if size}
    if width := config.get("projection_dim"):
        facts["joint space"] = f"{width} numbers"
    facts["licence"] = values.get("license") or "not stated"
    facts["training"] = _section(card, "Training") or _run(folder) or "not stated"
    facts["scores"] = _scores(values) or "none in its card"
    return facts


def sound_facts(sound: Sound) -> dict[str, Any]:
    """Decodes a sound to its end, in bounded memory, and tells what it is.

    Raises:
        AudioError: it cannot be read, or it is cut short.
    """
    import numpy as np
    import soundfile

    from ..modeling.audio_slap import decode_blocks

    length, peak = 0, 0.0
    for samples, rate in decode_blocks(sound.source, repr(sound.name), 30.0):
        length, form = length + len(samples), {"rate": rate, "channels": samples.shape[1]}
        peak = max(peak, float(np.abs(samples).max(initial=0.0)))
    try:
        format = soundfile.info(sound.source)
        kind = format.format if format.subtype in ("", None) else f"{format.format} {format.subtype}"
    except (soundfile.LibsndfileError, TypeError):  # from a URL, or decoded by FFmpeg
        kind = Path(sound.name).suffix.removeprefix(".").upper()
    level = round(20 * math.log10(peak), 1) if peak > 0 else None
    return {"sound": sound.name, "format": kind, "seconds": round(length / form["rate"], 3), **form, "peak_db": level}


def installed() -> str:
    """Versions of what matters here."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _hearing(config: dict) -> dict[str, str]:
    audio = config.get("audio_config")
    if not isinstance(audio, dict):
        return {}
    seconds = audio.get("max_audio_seconds")
    rest = "" if audio.get("long_audio") == "whole" else ", longer ones in windows"
    return {"hears": f"up to {seconds:g} s in one piece{rest}"} if seconds else {}


def _size(config: dict, part: str, weights: int) -> str:
    names = {"audio encoder": "audio_config", "text encoder": "text_config", "caption decoder": "decoder_config"}
    of_part = config.get(names.get(part, "")) or {}
    layers, width = of_part.get("num_hidden_layers"), of_part.get("hidden_size")
    said = f"{layers} layers, width {width}, " if layers and width else ""
    kind = f"{of_part['model_type']}, " if part == "text encoder" and of_part.get("model_type") else ""
    return f"{kind}{said}{weights:,} weights"


def _read(place: str, name: str) -> str | None:
    """The text of a file of a model; None where the model has no such file."""
    folder = Path(place).expanduser()
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(place, name)).read_text(encoding="utf-8")
        except LocalEntryNotFoundError as error:  # an EntryNotFoundError too, but the Hub was not asked
            raise OSError(
                f"there is no folder {place!r}, and as a model on the Hub it cannot be read: {error}"
            ) from error
        except EntryNotFoundError:
            return None
    path = folder / name
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _read_json(place: str, name: str) -> dict:
    return json.loads(_read(place, name) or "{}")


def _local_weights(folder: Path) -> dict[str, int]:
    """Numbers in each tensor, from the headers of the safetensors files."""
    from safetensors import SafetensorError, safe_open

    sizes: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                sizes |= {name: math.prod(file.get_slice(name).get_shape()) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{str(path)!r} is damaged, or no safetensors file: {error}") from error
    return sizes


def _hub_weights(place: str) -> dict[str, int]:
    from huggingface_hub import get_safetensors_metadata

    files = get_safetensors_metadata(place).files_metadata.values()
    return {name: math.prod(tensor.shape) for file in files for name, tensor in file.tensors.items()}


def _yaml(text: str) -> dict:
    import yaml

    values = yaml.safe_load(text)
    return values if isinstance(values, dict) else {}


def _section(card: str, title: str) -> list[str]:
    """The lines of a section of a card."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\n(?![-*|\n])", " ", found[1].strip()).splitlines() if found else []
    return [line.removeprefix("- ") for line in lines if line.strip()]


def _run(folder: Path) -> str:
    """What the run beside an exported model was told."""
    path = folder.parent / "config.yaml"
    values = _yaml(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told = {key: values[key] for key in ("train_data", "total_steps", "epochs", "seed") if values.get(key) is not None}
    return ", ".join(f"{key} {value}" for key, value in told.items()) + f" ({path})" if told else ""


def _scores(values: dict) -> list[str]:
    results = [result for model in values.get("model-index") or [] for result in model.get("results") or []]
    return [
        f"{metric.get('name') or metric.get('type')}: {metric.get('value')}"
        for result in results
        for metric in result.get("metrics") or []
    ]
