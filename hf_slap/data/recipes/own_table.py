"""A table of your own (CSV, TSV or JSON lines) and the sound files that it names."""

from pathlib import Path

from .base import Recipe
from .own import COLUMNS, SOUNDS, own_files, own_row
from .readers import json_rows, table


def rows(folder: Path):
    for path in own_files(folder, "*.csv", "*.tsv", "*.jsonl"):
        if path.suffix == ".jsonl":
            lines = json_rows(path)
        else:
            lines = table(path, delimiter="\t" if path.suffix == ".tsv" else ",")
        for row in lines:
            column = next((name for name in SOUNDS if row.get(name)), None)
            if column is None:
                raise ValueError(
                    f"{path}: no column names the sound file; its columns are {list(row)}, known are {COLUMNS}"
                )
            yield own_row(row, row[column])


RECIPE = Recipe(
    name="table",
    title="CSV, TSV or JSON lines",
    pages=(),
    license="unknown",
    text_license="yours",
    redistributable=False,
    domain="sound",
    captions="yours: human, or as the column `provenance` says; without any, template from labels",
    source_id="<name>:<id>, or the column source_id",
    access="own",
    placement=f"one or more tables (or the path of one) beside the files they name. Columns: {COLUMNS}",
    expected=("*.csv|*.tsv|*.jsonl",),
    rows=rows,
)
