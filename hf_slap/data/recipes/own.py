"""Rows of your own tables: columns by the names that people give them."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..records import DOMAINS, Caption
from .base import Row
from .captions import from_labels
from .readers import matching, named_list

SOUNDS = ("file_name", "audio_path", "path", "filename", "audio", "file")
CAPTIONS = ("captions", "caption", "text")
LABELS = ("labels", "label", "tags", "tag")
SPLITS = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "eval", "evaluation", "heldout", "holdout"), "test"),
}
COLUMNS = (
    f"sound: {', '.join(SOUNDS)}; captions: {', '.join(CAPTIONS)} (one or a list) or caption_1, caption_2, ...; or "
    f"{', '.join(LABELS)}; if you like id, source_id, start, end, split, license, redistributable, domain, language, "
    "provenance, model, style"
)
OWN = {  # what the recipes of your own tables declare alike
    "pages": (),
    "license": "unknown",
    "text_license": "yours",
    "redistributable": False,
    "domain": "sound",
    "captions": "yours: human, or as the column `provenance` says; without any, template from labels",
    "source_id": "<name>:<id>, or the column source_id",
    "access": "own",
}


def own_row(row: Mapping, sound: dict | str, key: str | None = None) -> Row:
    """A row of your own, its cells text or values.

    Args:
        row: see `COLUMNS`.
        sound: the bytes, or the path below the folder.
        key: where the row has no id; else the sound's path without extension.
    """

    def cell(*names: str) -> str:
        return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")

    path = sound["path"] or "" if isinstance(sound, dict) else sound
    key = cell("id") or key or PurePosixPath(path).with_suffix("").as_posix()
    labels = [label for name in LABELS for label in _several(row.get(name))]
    texts = [
        text for name in row if name in CAPTIONS or re.fullmatch(r"caption_?\d+", name) for text in _several(row[name])
    ]
    provenance = cell("provenance") or "human"
    model = cell("model") or "unknown" if provenance == "machine" else None
    captions = [Caption(text, style=cell("style"), provenance=provenance, model=model) for text in texts]
    domain = cell("domain").lower()
    redistributable = cell("redistributable").lower()
    return Row(
        key=key,
        sound=sound,
        captions=captions or from_labels("sound", key, labels),
        source_id=cell("source_id") or None,
        segment=(cell("start"), cell("end")),
        labels=labels,
        license=cell("license", "licence") or None,
        redistributable=redistributable in ("true", "1", "yes") if redistributable else None,
        domain=domain if domain in DOMAINS else None,
        language=cell("language") or None,
        split=own_split(cell("split")),
    )


def own_split(name: str) -> str:
    """A split by the name that people give it. Others stay as they are, to be refused: they may be tests."""
    return SPLITS.get(name.lower(), name)


def own_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder that match, or the one file that was given instead of a folder."""
    return [folder] if folder.is_file() else [path for pattern in patterns for path in matching(folder, pattern)]


def _several(value) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return named_list(value) if re.fullmatch(r"\s*\[.*\]\s*", value, re.DOTALL) else [value]
    return [str(item) for item in value if item not in (None, "")] if isinstance(value, list | tuple) else [str(value)]
