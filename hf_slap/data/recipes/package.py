"""Sounds out of free software packages: parquet files in which each clip states its package and licence."""

from pathlib import Path

from ..records import Caption
from .base import Recipe, Row
from .captions import human
from .own import own_files, own_split
from .readers import parquet

DOMAINS = {"instrument": "music", "drum": "music", "speech": "speech"}  # all others are "sound"
COLUMNS = "audio id split domain label source_text package license"


def rows(folder: Path):
    for path in own_files(folder, "*.parquet"):
        for row in parquet(path.parent, path.name, COLUMNS):
            texts = row.get("captions") or [row.get("caption") or ""]
            captions = [Caption(text, provenance="template") for text in texts]
            spoken = row["source_text"] if (row.get("language") or "").startswith("en") else row.get("transcript_en")
            yield Row(
                key=row["id"],
                sound=row["audio"],
                captions=captions + human(spoken or "", style="transcript"),
                source_id=f"package:{row['package']}/{row['id']}",
                labels=[row["label"]] if row["label"] else [],
                license=row["license"],
                redistributable=row.get("redistributable"),
                domain=DOMAINS.get(row["domain"], "sound"),
                split=own_split(row["split"] or ""),
            )


RECIPE = Recipe(
    name="package",
    title="sounds of free software packages",
    pages=(),
    license="unknown",
    text_license="that of the clip",
    redistributable=False,
    domain="sound",
    captions="template from the label; human where speech comes with an English transcript",
    source_id="package:<package>/<id>",
    access="own",
    placement="parquet files (or the path of one) such as this project's examples/data; columns: "
    f"{COLUMNS.replace(' ', ', ')}; caption or captions; if you like language, transcript_en, redistributable",
    expected=("*.parquet",),
    rows=rows,
)
