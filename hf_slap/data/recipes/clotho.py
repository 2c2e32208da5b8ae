"""Clotho 2.1: sounds of Freesound, 15 to 30 s, with five captions of people each."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human
from .readers import table

SPLITS = {"development": "train", "validation": "validation", "evaluation": "test"}
CAPTIONS = [f"caption_{number}" for number in range(1, 6)]
RATE = 44_100  # Hz, of the published files; start_end_samples counts in it


def rows(folder: Path):
    for name, split in SPLITS.items():
        captions, metadata = (folder / f"clotho_{kind}_{name}.csv" for kind in ("captions", "metadata"))
        if not captions.is_file():
            continue
        known = {row["file_name"]: row for row in table(metadata, "sound_id license")} if metadata.is_file() else {}
        for row in table(captions, " ".join(["file_name", *CAPTIONS])):
            about = known.get(row["file_name"], {})
            number = about.get("sound_id", "")
            samples = about.get("start_end_samples", "").strip("[] ").split(",")
            inside = len(samples) == 2 and all(sample.strip().isdigit() for sample in samples)
            yield Row(
                key=f"{name}/{row['file_name']}",
                sound=f"{name}/{row['file_name']}",
                captions=human(*(row[column] for column in CAPTIONS)),
                source_id=f"freesound:{number}" if number.isdigit() else None,
                segment=tuple(int(sample) / RATE for sample in samples) if inside else None,
                labels=[word.strip() for word in about.get("keywords", "").split(";") if word.strip()],
                license=about.get("license", "").replace("Not found", ""),
                split=split,
            )


RECIPE = Recipe(
    name="clotho",
    title="Clotho 2.1",
    pages=("https://zenodo.org/records/4783391",),
    license="unknown",
    text_license="LicenseRef-Clotho (attribution, non-commercial)",
    redistributable=False,
    domain="sound",
    captions="human; 5 per clip",
    source_id="freesound:<number> of the metadata, clotho:<file> where it says 'Not found'",
    access="download",
    placement="clotho_captions_<name>.csv and clotho_metadata_<name>.csv beside development/, validation/, evaluation/",
    expected=("clotho_captions_*.csv", "development|validation|evaluation"),
    rows=rows,
    not_checked="the licence of the text; that segments count samples at 44.1 kHz",
)
