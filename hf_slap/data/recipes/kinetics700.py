"""Kinetics-700: ten-second clips of videos in 700 classes of human action."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import from_labels
from .readers import table

TABLES = {"train": "train", "val": "validation", "validate": "validation", "test": "test"}


def rows(folder: Path):
    for name, split in TABLES.items():
        if not (folder / f"{name}.csv").is_file():
            continue
        for row in table(folder / f"{name}.csv", "youtube_id time_start time_end"):
            video, start, end = row["youtube_id"], row["time_start"], row["time_end"]
            label = row.get("label", "")  # the test table has none
            places = "|".join([f"{name}/{label}", name, "audio"])
            yield Row(
                key=f"{video}_{start}",
                sound=youtube_paths(video, start, end, places),
                captions=from_labels("action", f"{video}_{start}", [label]),
                source_id=f"youtube:{video}",
                segment=(start, end),
                labels=[label] * bool(label),
                split=split,
            )


RECIPE = Recipe(
    name="kinetics700",
    title="Kinetics-700",
    pages=("https://github.com/cvdfoundation/kinetics-dataset",),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="sound",
    captions="template from 1 of 700 actions; clips without a label are reported and left out",
    source_id="youtube:<video>, segment of 10 s",
    access="ids",
    placement="train.csv, val.csv (or validate.csv), test.csv as published; sound or video (needs torchcodec) in "
    "<table>/<label>/ or audio/, <youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4",
    expected=("train.csv|val.csv|validate.csv|test.csv", "train|val|validate|test|audio"),
    rows=rows,
    not_checked="the licence of the labels",
)
