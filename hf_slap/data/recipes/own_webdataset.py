"""WebDataset shards: tar files of <key>.<sound> with <key>.json or <key>.txt."""

import json
from pathlib import Path, PurePosixPath

from .base import SOUND_EXTENSIONS, Recipe
from .own import COLUMNS, own_files, own_row
from .readers import webdataset


def rows(folder: Path):
    for path in own_files(folder, "**/*.tar"):
        for key, parts in webdataset(path):
            extension = next((one for one in parts if f".{one}" in SOUND_EXTENSIONS), None)
            about = json.loads(parts["json"]) if "json" in parts else {}
            if "txt" in parts:
                about["caption"] = parts["txt"].decode("utf-8").strip()
            name = PurePosixPath(key).name
            sound = {"bytes": parts[extension], "path": f"{name}.{extension}"} if extension else f"{path.name}/{key}"
            yield own_row(about, sound, key=key)


RECIPE = Recipe(
    name="webdataset",
    title="WebDataset shards",
    pages=(),
    license="unknown",
    text_license="yours",
    redistributable=False,
    domain="sound",
    captions="yours, from <key>.txt or the json's caption, captions or text",
    source_id="<name>:<key>, or source_id of the json",
    access="own",
    placement=f"tar files at any depth (or the path of one). Fields of the json: {COLUMNS}",
    expected=("**/*.tar",),
    rows=rows,
)
