"""VGGSound: 200 k ten-second clips of videos in 309 classes."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import from_labels
from .readers import table


def rows(folder: Path):
    for row in table(folder / "vggsound.csv", header="video start label split"):
        key = f"{row['video']}_{row['start']}"
        yield Row(
            key=key,
            sound=youtube_paths(row["video"], row["start"], "+10", "audio|audio/" + row["split"]),
            captions=from_labels("sound", key, [row["label"]]),
            source_id=f"youtube:{row['video']}",
            segment=(row["start"], "+10"),
            labels=[row["label"]],
            split=row["split"],
        )


RECIPE = Recipe(
    name="vggsound",
    title="VGGSound",
    pages=("https://www.robots.ox.ac.uk/~vgg/data/vggsound/",),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="sound",
    captions="template from 1 of 309 labels",
    source_id="youtube:<video>, segment of 10 s",
    access="ids",
    placement="vggsound.csv as published (no header); sound in audio/ or audio/<split>/, <video>_<start, 6 digits>.wav",
    expected=("vggsound.csv", "audio"),
    rows=rows,
)
