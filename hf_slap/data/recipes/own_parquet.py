"""Parquet files of your own or of the Hub, with the sound in a column."""

from pathlib import Path

from .base import Recipe
from .own import COLUMNS, OWN, own_files, own_row
from .readers import parquet


def rows(folder: Path):
    for path in own_files(folder, "**/*.parquet"):
        for number, row in enumerate(parquet(path.parent, path.name, "audio")):
            audio, key = row.pop("audio"), f"{path.stem}/{number}"
            if isinstance(audio, dict):
                embedded = {"bytes": audio["bytes"], "path": audio["path"]}
                audio = embedded if audio["bytes"] is not None else audio["path"]
            yield own_row(row, audio or f"{key}, whose audio is null", key=key)


RECIPE = Recipe(
    name="parquet",
    title="parquet with an audio column",
    **OWN,
    placement=f"parquet files at any depth (or the path of one); audio is {{bytes, path}}. Columns: {COLUMNS}",
    expected=("**/*.parquet",),
    rows=rows,
)
