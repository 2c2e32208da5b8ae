"""findsounds.com: a search engine for sounds. There is no published set: this reads what you collected."""

from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels
from .readers import table


def rows(folder: Path):
    for row in table(folder / "findsounds.csv", "file_name label"):
        key = row["file_name"].rsplit(".", 1)[0]
        yield Row(
            key=key,
            sound=[f"audio/{row['file_name']}", row["file_name"]],
            captions=from_labels("sound", key, row["label"].split(";")),
            labels=[label.strip() for label in row["label"].split(";") if label.strip()],
        )


RECIPE = Recipe(
    name="findsounds",
    title="findsounds.com",
    pages=("https://www.findsounds.com/",),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="sound",
    captions="template from the labels",
    source_id="findsounds:<file>",
    access="own",
    placement="findsounds.csv (file_name, label; several labels divided by ';') and the files in audio/",
    expected=("findsounds.csv",),
    rows=rows,
    not_checked="what CLAP 2023 took from it; the layout is ours",
)
