"""AudioCaps: sounds of AudioSet with captions of people; one per clip to train on, five to judge by."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import human
from .readers import table

TABLES = {"train": "train", "val": "validation", "test": "test"}
COLUMNS = "audiocap_id youtube_id start_time caption"


def rows(folder: Path):
    for name, split in TABLES.items():
        if not (folder / f"{name}.csv").is_file():
            continue
        clips: dict[tuple, list[str]] = {}
        for row in table(folder / f"{name}.csv", COLUMNS):
            clips.setdefault((row["youtube_id"], row["start_time"]), []).append(row["caption"])
        for (video, start), captions in clips.items():
            yield Row(
                key=f"{video}_{start}",
                sound=youtube_paths(video, start, "+10", f"audio|audio/{name}"),
                captions=human(*captions),
                source_id=f"youtube:{video}",
                segment=(start, "+10"),
                split=split,
            )


RECIPE = Recipe(
    name="audiocaps",
    title="AudioCaps",
    pages=("https://github.com/cdjkim/audiocaps", "d0rj/audiocaps"),
    license="unknown",
    text_license="MIT",
    redistributable=False,
    domain="sound",
    captions="human; 1 per clip in train, 5 in validation and test",
    source_id="youtube:<video>, segment of 10 s",
    access="ids",
    placement="train.csv, val.csv, test.csv as published; sound in audio/ or audio/<table>/, "
    "<youtube_id>_<start_time>.wav",
    expected=("train.csv|val.csv|test.csv", "audio"),
    rows=rows,
    not_checked="the licence of the text",
)
