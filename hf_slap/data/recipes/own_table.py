"""A table of your own (CSV, TSV or JSON lines) and the sound files that it names."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from .base import Recipe, Row
from .own import COLUMNS, OWN, SOUNDS, own_files, own_row
from .readers import json_rows, table


def rows(folder: Path):
    for path in own_files(folder, "*.csv", "*.tsv", "*.jsonl"):
        if path.suffix == ".jsonl":
            lines = json_rows(path)
        else:
            lines = table(path, delimiter="\t" if path.suffix == ".tsv" else ",")
        yield from _one_per_clip(_table_rows(path, lines))


def _table_rows(path: Path, lines: Iterable[dict]) -> Iterator[Row]:
    for number, row in enumerate(lines, 1):
        if not set(SOUNDS) & set(row):
            raise ValueError(
                f"{path}: no column names the sound file; its columns are {list(row)}, known are {COLUMNS}"
            )
        sound = next((row[name] for name in SOUNDS if row.get(name)), None)
        key = None if sound else f"{path.name}/{number}"
        yield own_row(row, sound or f"(row {number} of {path.name} names none)", key)


def _one_per_clip(rows: Iterable[Row]) -> Iterator[Row]:
    """Rows that follow each other and name the same clip as one, with the captions of all."""
    for _, same in itertools.groupby(rows, key=lambda row: (row.key, row.sound)):
        first, *others = same
        yield dataclasses.replace(first, captions=[caption for row in (first, *others) for caption in row.captions])


RECIPE = Recipe(
    name="table",
    title="CSV, TSV or JSON lines",
    **OWN,
    placement="one or more tables (or the path of one) beside the files they name; several rows of one clip, one after "
    f"the other, are its captions. Columns: {COLUMNS}",
    expected=("*.csv|*.tsv|*.jsonl",),
    rows=rows,
)
