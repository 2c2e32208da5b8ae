"""Auto-ACD: captions by ChatGPT from what several models hear and see in clips of AudioSet and VGGSound."""

from pathlib import Path

from .audiosetcaps import _ID
from .base import Recipe, Row, youtube_paths
from .captions import machine
from .readers import table


def rows(folder: Path):
    for name in ("train", "test"):
        if not (folder / f"{name}.csv").is_file():
            continue
        for row in table(folder / f"{name}.csv", "youtube_id caption"):
            match = _ID.fullmatch(row["youtube_id"])
            video, start = (match[1], match[2]) if match else (row["youtube_id"], None)
            yield Row(
                key=row["youtube_id"],
                sound=[f"audio/{row['youtube_id']}", *youtube_paths(video, start, "+10", f"audio|audio/{name}")],
                captions=machine("ChatGPT", row["caption"]),
                source_id=f"youtube:{video}",
                segment=(start, "+10"),
                split=name,
            )


RECIPE = Recipe(
    name="auto_acd",
    title="Auto-ACD (1.5 M)",
    pages=("Loie/Auto-ACD", "https://auto-acd.github.io/"),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="sound",
    captions="machine (ChatGPT); 1 per row",
    source_id="youtube:<video>, segment not stated",
    access="ids",
    placement="train.csv and test.csv as published; sound in audio/, <youtube_id>.wav",
    expected=("train.csv|test.csv", "audio"),
    rows=rows,
    not_checked="test.csv's columns, and whether ids carry a start",
)
