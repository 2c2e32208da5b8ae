"""FSD50K: 51 k sounds of Freesound with labels of AudioSet's ontology."""

from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels
from .readers import read_json, table

SPLITS = {"dev": {"train": "train", "val": "validation"}, "eval": {"": "test"}}


def rows(folder: Path):
    for part, splits in SPLITS.items():
        truth, metadata = folder / "FSD50K.ground_truth" / f"{part}.csv", folder / "FSD50K.metadata"
        if not truth.is_file():
            continue
        info, typed = metadata / f"{part}_clips_info_FSD50K.json", metadata / "collection" / f"collection_{part}.csv"
        clips = read_json(info) if info.is_file() else {}
        # the ground truth holds all parents of a label too; what people chose is in the collection
        chosen = {row["fname"]: row["labels"] for row in table(typed, "fname labels")} if typed.is_file() else {}
        for row in table(truth, "fname labels mids"):
            number = row["fname"]
            yield Row(
                key=number,
                sound=f"FSD50K.{part}_audio/{number}.wav",
                captions=from_labels("sound", number, (chosen.get(number) or row["labels"]).split(",")),
                source_id=f"freesound:{number}",
                labels=row["labels"].split(","),
                license=clips.get(number, {}).get("license"),
                split=splits.get(row.get("split", ""), "train"),
            )


RECIPE = Recipe(
    name="fsd50k",
    title="FSD50K",
    pages=("https://zenodo.org/records/4060432",),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="sound",
    captions="template from the labels people chose, of 200",
    source_id="freesound:<fname>",
    access="download",
    placement="FSD50K.ground_truth/, FSD50K.metadata/, FSD50K.dev_audio/, FSD50K.eval_audio/ as published",
    expected=("FSD50K.ground_truth/*.csv", "FSD50K.dev_audio|FSD50K.eval_audio"),
    rows=rows,
)
