"""ESC-50: 2,000 five-second clips of Freesound in 50 classes. To judge by; its ids keep it out of training."""

from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels
from .readers import table


def rows(folder: Path):
    for row in table(folder / "meta" / "esc50.csv", "filename category src_file"):
        yield Row(
            key=row["filename"].removesuffix(".wav"),
            sound=f"audio/{row['filename']}",
            captions=from_labels("sound", row["filename"], [row["category"]]),
            source_id=f"freesound:{row['src_file']}",
            labels=[row["category"]],
            split="test",
        )


RECIPE = Recipe(
    name="esc50",
    title="ESC-50",
    pages=("https://github.com/karolpiczak/ESC-50", "ashraq/esc50"),
    license="CC-BY-NC-3.0",
    text_license="CC-BY-NC-3.0",
    redistributable=False,
    domain="sound",
    captions="template from 1 of 50 labels",
    source_id="freesound:<src_file>, segment not stated",
    access="download",
    placement="meta/esc50.csv and audio/ as published",
    expected=("meta/esc50.csv", "audio"),
    rows=rows,
)
