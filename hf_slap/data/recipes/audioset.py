"""AudioSet: 2 million ten-second clips of videos with labels of an ontology of sounds."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import from_labels
from .readers import read_json, table

TABLES = {"balanced_train_segments": "train", "unbalanced_train_segments": "train", "eval_segments": "test"}


def rows(folder: Path):
    if (folder / "ontology.json").is_file():
        names = {entry["id"]: entry["name"] for entry in read_json(folder / "ontology.json")}
    else:
        names = {
            row["mid"]: row["display_name"] for row in table(folder / "class_labels_indices.csv", "mid display_name")
        }
    for name, split in TABLES.items():
        if not (folder / f"{name}.csv").is_file():
            continue
        for row in table(folder / f"{name}.csv", header="video start end labels", comment="#"):
            labels = [names.get(label, label) for label in row["labels"].split(",")]
            yield Row(
                key=f"{row['video']}_{row['start'].removesuffix('.000')}",
                sound=youtube_paths(row["video"], row["start"], row["end"], f"audio|audio/{name}"),
                captions=from_labels("sound", row["video"], labels),
                source_id=f"youtube:{row['video']}",
                segment=(row["start"], row["end"]),
                labels=labels,
                split=split,
            )


RECIPE = Recipe(
    name="audioset",
    title="AudioSet labels",
    pages=("https://research.google.com/audioset/", "agkphysics/AudioSet"),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="sound",
    captions="template from 1 or more of 527 labels",
    source_id="youtube:<video>, segment of up to 10 s",
    access="ids",
    placement="the *_segments.csv and ontology.json or class_labels_indices.csv as published; sound in audio/ or "
    "audio/<table>/, <YTID>_<start>.wav, Y<YTID>.wav or <YTID>_<start ms>_<end ms>.wav",
    expected=("*_segments.csv", "ontology.json|class_labels_indices.csv", "audio"),
    rows=rows,
)
