"""MACS: three kinds of city scenes of TAU Urban Acoustic Scenes 2019, captioned by several people each."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human


def rows(folder: Path):
    import yaml

    with open(folder / "MACS.yaml", encoding="utf-8") as file:
        files = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["files"]
    for clip in files:
        tags = [tag for annotation in clip["annotations"] for tag in annotation["tags"]]
        yield Row(
            key=clip["filename"],
            sound=[f"audio/{clip['filename']}", f"TAU-urban-acoustic-scenes-2019-development/audio/{clip['filename']}"],
            captions=human(*(annotation["sentence"] for annotation in clip["annotations"])),
            source_id=f"tau-urban-2019:{clip['filename'].removesuffix('.wav')}",
            labels=[clip["filename"].split("-")[0], *dict.fromkeys(tags)],
        )


RECIPE = Recipe(
    name="macs",
    title="MACS",
    pages=("https://zenodo.org/records/5114771", "https://zenodo.org/records/2589280"),
    license="LicenseRef-TAU (non-commercial)",
    text_license="LicenseRef-MACS (non-commercial)",
    redistributable=False,
    domain="sound",
    captions="human; 2 to 5 per clip",
    source_id="tau-urban-2019:<file>",
    access="download",
    placement="MACS.yaml beside TAU-urban-acoustic-scenes-2019-development/audio/, or that folder's files in audio/",
    expected=("MACS.yaml", "audio|TAU-urban-acoustic-scenes-2019-development/audio"),
    rows=rows,
    not_checked="both licences",
)
