"""LJSpeech: 13,100 sentences of non-fiction read by one woman."""

import csv
from pathlib import Path

from .base import Recipe, Row
from .captions import human, template
from .readers import table


def rows(folder: Path):
    header = "key text normalized"
    for row in table(folder / "metadata.csv", delimiter="|", header=header, quoting=csv.QUOTE_NONE):
        yield Row(
            key=row["key"],
            sound=f"wavs/{row['key']}.wav",
            captions=human(row["normalized"] or row["text"], style="transcript")
            + template("reading", row["key"], "a woman"),
        )


RECIPE = Recipe(
    name="ljspeech",
    title="LJSpeech",
    pages=("https://keithito.com/LJ-Speech-Dataset/",),
    license="public-domain",
    text_license="public-domain",
    redistributable=True,
    domain="speech",
    captions="human (transcript, numbers written out) and a template",
    source_id="ljspeech:<key>",
    access="download",
    placement="metadata.csv (no header, divided by '|') and wavs/ as unpacked",
    expected=("metadata.csv", "wavs"),
    rows=rows,
)
