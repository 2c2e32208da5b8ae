"""CochlScene: ten-second recordings of 13 everyday places."""

import re
from pathlib import Path, PurePosixPath

from .base import Recipe, Row
from .captions import a, template
from .readers import first_folder, sounds

PLACES = {"Crowded Indoor": "a crowded indoor place"}
SPLITS = {"Train": "train", "Val": "validation", "Test": "test"}


def rows(folder: Path):
    root = first_folder(folder, "CochlScene")
    for name, split in SPLITS.items():
        for path in sounds(folder, f"{root}{name}/**/*"):
            key = PurePosixPath(path).stem
            place = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key.split("_")[0])  # "ResidentialArea_user0033_14818437_001"
            yield Row(
                key=key,
                sound=path,
                captions=template("scene", key, PLACES.get(place) or a(place.lower())),
                labels=[place],
                split=split,
            )


RECIPE = Recipe(
    name="cochlscene",
    title="CochlScene",
    pages=("https://zenodo.org/records/7080122", "https://github.com/cochlearai/cochlscene"),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="sound",
    captions="template from 1 of 13 places",
    source_id="cochlscene:<file>",
    access="download",
    placement="Train/, Val/, Test/ as unpacked, or CochlScene/ with them",
    expected=("Train|CochlScene/Train", "Test|CochlScene/Test"),
    rows=rows,
    not_checked="the licence; that the file's name begins with the class",
)
