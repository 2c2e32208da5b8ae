"""EPIC-SOUNDS: what is heard in the kitchens of EPIC-KITCHENS-100, in the words of annotators and in 44 classes."""

from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels, human
from .readers import table

TABLES = {"EPIC_Sounds_train": "train", "EPIC_Sounds_validation": "validation"}
COLUMNS = "annotation_id participant_id video_id start_timestamp stop_timestamp description class"


def rows(folder: Path):
    for name, split in TABLES.items():
        if not (folder / f"{name}.csv").is_file():
            continue
        for row in table(folder / f"{name}.csv", COLUMNS):
            span = (row["start_timestamp"], row["stop_timestamp"])
            person, video = row["participant_id"], row["video_id"]
            yield Row(
                key=row["annotation_id"],
                sound=[f"audio/{video}", f"{person}/videos/{video}", f"EPIC-KITCHENS/{person}/videos/{video}"],
                captions=human(row["description"], style="description")
                + from_labels("sound", row["annotation_id"], row["class"].split("/")[:1]),
                source_id=f"epic-kitchens:{video}",
                segment=span,
                cut=span,
                labels=[row["class"]],
                split=split,
            )


RECIPE = Recipe(
    name="epic_sounds",
    title="EPIC-SOUNDS (EPIC-KITCHENS-100)",
    pages=("https://github.com/epic-kitchens/epic-sounds-annotations", "https://epic-kitchens.github.io/"),
    license="CC-BY-NC-4.0",
    text_license="CC-BY-NC-4.0",
    redistributable=False,
    domain="sound",
    captions="human (a few words) and template from 1 of 44 classes",
    source_id="epic-kitchens:<video>, segment",
    access="download",
    placement="EPIC_Sounds_train.csv, EPIC_Sounds_validation.csv as published; the videos' sound in audio/, "
    "<video_id>.wav, or the videos as their script leaves them (needs torchcodec)",
    expected=("EPIC_Sounds_*.csv", "audio|EPIC-KITCHENS|P*/videos"),
    rows=rows,
    not_checked="whether CLAP 2023 took these or the narrations of EPIC-KITCHENS",
)
