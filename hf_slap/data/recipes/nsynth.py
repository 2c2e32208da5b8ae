"""NSynth: 306 k single notes of 1,006 instruments."""

from pathlib import Path

from .base import Recipe, Row
from .captions import a, template
from .readers import read_json

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
KEYS = ("C", "C sharp", "D", "D sharp", "E", "F", "F sharp", "G", "G sharp", "A", "A sharp", "B")


def rows(folder: Path):
    for name, split in SPLITS.items():
        place = f"nsynth-{name}"
        if not (folder / place / "examples.json").is_file():
            continue
        for note, about in read_json(folder / place / "examples.json").items():
            family, source = about["instrument_family_str"].replace("_", " "), about["instrument_source_str"]
            qualities = [quality.replace("_", " ") for quality in about["qualities_str"]]
            pitch = f"{KEYS[about['pitch'] % 12]}{about['pitch'] // 12 - 1}"
            text = f"{a(source)} {family} playing {pitch}"
            yield Row(
                key=note,
                sound=f"{place}/audio/{note}.wav",
                captions=template("note", note, ", ".join([text, *qualities])),
                labels=[family, source, *qualities],
                split=split,
            )


RECIPE = Recipe(
    name="nsynth",
    title="NSynth",
    pages=("https://magenta.tensorflow.org/datasets/nsynth",),
    license="CC-BY-4.0",
    text_license="CC-BY-4.0",
    redistributable=True,
    domain="music",
    captions="template from instrument, source, pitch and qualities",
    source_id="nsynth:<note>",
    access="download",
    placement="nsynth-train/, nsynth-valid/, nsynth-test/ as unpacked, each with examples.json and audio/",
    expected=("nsynth-*/examples.json", "nsynth-*/audio"),
    rows=rows,
)
