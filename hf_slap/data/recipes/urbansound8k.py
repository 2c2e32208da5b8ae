"""UrbanSound8K: 8,732 clips of Freesound in 10 classes. To judge by; its ids keep it out of training."""

from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels
from .readers import first_folder, table


def rows(folder: Path):
    root = first_folder(folder, "UrbanSound8K")
    for row in table(folder / f"{root}metadata/UrbanSound8K.csv", "slice_file_name fsID start end fold class"):
        yield Row(
            key=row["slice_file_name"].removesuffix(".wav"),
            sound=f"{root}audio/fold{row['fold']}/{row['slice_file_name']}",
            captions=from_labels("sound", row["slice_file_name"], [row["class"]]),
            source_id=f"freesound:{row['fsID']}",
            segment=(row["start"], row["end"]),
            labels=[row["class"]],
            split="test",
        )


RECIPE = Recipe(
    name="urbansound8k",
    title="UrbanSound8K",
    pages=("https://urbansounddataset.weebly.com/urbansound8k.html", "https://zenodo.org/records/1203745"),
    license="CC-BY-NC-3.0",
    text_license="CC-BY-NC-3.0",
    redistributable=False,
    domain="sound",
    captions="template from 1 of 10 labels",
    source_id="freesound:<fsID>, segment",
    access="download",
    placement="metadata/UrbanSound8K.csv and audio/fold1/ to fold10/ as unpacked, or UrbanSound8K/ with them",
    expected=("metadata/UrbanSound8K.csv|UrbanSound8K/metadata/UrbanSound8K.csv", "audio|UrbanSound8K/audio"),
    rows=rows,
)
