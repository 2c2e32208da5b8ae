"""Common Voice: sentences read by volunteers in many languages."""

import csv
from pathlib import Path

from .base import Recipe, Row
from .captions import human, template
from .readers import matching, table

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
PERSONS = {"female": "a woman", "male": "a man"}  # newer releases write "female_feminine", "male_masculine"


def rows(folder: Path):
    for name, split in SPLITS.items():
        for path in matching(folder, f"{name}.tsv") + matching(folder, f"*/{name}.tsv"):
            clips = (path.parent / "clips").relative_to(folder).as_posix()
            for row in table(path, "path sentence", delimiter="\t", quoting=csv.QUOTE_NONE):
                key = row["path"].removesuffix(".mp3")
                language = row.get("locale") or path.parent.name
                person = PERSONS.get(row.get("gender", "").split("_")[0], "a person")
                english = template("reading", key, person) if language == "en" else []
                yield Row(
                    key=key,
                    sound=f"{clips}/{key}.mp3",
                    captions=english + human(row["sentence"], style="transcript"),
                    source_id=f"commonvoice:{key}",
                    language=language,
                    split=split,
                )


RECIPE = Recipe(
    name="common_voice",
    title="Common Voice",
    pages=("https://commonvoice.mozilla.org/datasets",),
    license="CC0-1.0",
    text_license="CC0-1.0",
    redistributable=True,
    domain="speech",
    captions="human (the sentence, in its language); English also a template from the speaker's sex",
    source_id="commonvoice:<file>",
    access="request",
    placement="one language as unpacked (train.tsv, dev.tsv, test.tsv, clips/), or several in folders by language code",
    expected=("train.tsv|dev.tsv|test.tsv|*/train.tsv|*/dev.tsv|*/test.tsv", "clips|*/clips"),
    rows=rows,
    not_checked="the present terms of the download",
)
