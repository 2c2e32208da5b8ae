"""Checkpoints that others published, as folders of safetensors that load like any other model: `convert`.

`checkpoint.py` reads pickles without running code and keeps account of every key; msclap.py, clapcap.py and laion.py
know one family each.
"""

import hashlib
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from torch import Tensor
from transformers import ClapModel

from .. import registration
from .checkpoint import ConversionError, read_checkpoint

# version: (module, function, tokenizer, a key that only this version has)
VERSIONS = {
    "2022": ("msclap", "convert_2022", "bert-base-uncased", "audio_encoder.base.fc_audioset.weight"),
    "2023": ("msclap", "convert_2023", "gpt2", "caption_encoder.base.wte.weight"),
    "clapcap": ("clapcap", "convert_clapcap", "gpt2", "clap_project.prefix_const"),
    "laion": ("laion", "convert_laion", "roberta-base", "text_branch.embeddings.word_embeddings.weight"),
}
RECORD = "conversion.json"


def convert(
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    version: str | None = None,
    tokenizer: str | os.PathLike | None = None,
    compat: bool = False,
) -> dict[str, str]:
    """Makes a folder of safetensors, configuration and processor from a published checkpoint.

    Every key of the checkpoint is used or named with its reason; sizes are read from the weights' shapes; the front
    end that lies among the weights of CLAP is compared with that of the feature extractor. What was done is written to
    `conversion.json` in the folder.

    Args:
        checkpoint: `CLAP_weights_2022.pth`, `CLAP_weights_2023.pth`, `clapcap_weights_2023.pth`, or a `.pt` of LAION's
            CLAP. Never opened in a way that could run code.
        folder: made; must not hold anything. LAION's becomes a `ClapModel` of transformers, the others models of this
            package.
        version: "2022", "2023", "clapcap" or "laion"; None looks which it is.
        tokenizer: folder or Hub id; None is that of the text tower ("gpt2", "bert-base-uncased", "roberta-base").
        compat: the folder does what Microsoft's code does: channels laid end to end, a random part of long clips, the
            text's end found by counting ids that are not 0. Otherwise channels are averaged, long clips heard in
            windows, and the end is found by the attention mask. Mono clips no longer than the window, and texts without
            "!", get the same embedding either way.
    Returns:
        the reason of every key that was left out.
    Raises:
        ConversionError: another checkpoint than `version` says, or one that no converter knows.
        FileExistsError: `folder` is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not empty; choose another folder")
    state = read_checkpoint(checkpoint)
    found = _version_of(state)
    version = version or found
    if version is None:
        begin = sorted({key.split(".")[0] for key in state})[:5]
        raise ConversionError(
            f"no converter knows this checkpoint: its keys begin with {begin}; those known are {', '.join(VERSIONS)}"
        )
    if version not in VERSIONS:
        raise ConversionError(f"version={version!r}; accepted are {', '.join(VERSIONS)}")
    if compat and version == "laion":
        raise ConversionError("compat=True is for Microsoft's CLAP; LAION's becomes a model of transformers as it is")
    _, _, default, mark = VERSIONS[version]
    if mark not in state:
        raise ConversionError(
            f"{checkpoint} is not version {version!r}: it holds no {mark!r}"
            + (f"; it looks like version={found!r}" if found else "")
        )
    name = str(tokenizer or default)
    options = {"compat": compat} if version != "laion" else {}
    model, processor, dropped = _converter(version)(state, name, **options)
    if isinstance(model, ClapModel):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    else:
        registration.save_folder(folder, model, processor)
    record = {
        "checkpoint": Path(checkpoint).name,
        "sha256": _sha256(checkpoint),
        "version": version,
        "compat": compat,
        "tokenizer": name if tokenizer is None else Path(name).name,
        "keys": len(state),
        "dropped": dropped,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return dropped


def _converter(version: str) -> Callable:
    module, function, *_ = VERSIONS[version]
    return getattr(import_module(f".{module}", __name__), function)


def _version_of(state: dict[str, Tensor]) -> str | None:
    return next((version for version, (*_, mark) in VERSIONS.items() if mark in state), None)


def _sha256(path: str | os.PathLike) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["ConversionError", "VERSIONS", "convert", "read_checkpoint"]
