"""ParaSpeechCaps: how people speak, in words, over VoxCeleb, Expresso, EARS and Emilia."""

from pathlib import Path

from .base import Recipe, Row
from .captions import machine
from .readers import parquet

SPLITS = {"train_base": "train", "train_scaled": "train", "dev": "validation", "holdout": "test"}


def rows(folder: Path):
    for name, split in SPLITS.items():
        for row in parquet(folder, f"data/{name}-*.parquet", "source relative_audio_path text_description all_tags"):
            path = row["relative_audio_path"]
            source = row["source"].lower()
            own = path.rsplit(".", 1)[0].removesuffix("_voicefixer")
            yield Row(
                key=f"{source}/{own}",
                sound=[f"{source}/{path}", path],
                captions=machine("unknown", *row["text_description"], style=name),
                source_id=f"{source}:{own}",
                labels=row["all_tags"] or [],
                split=split,
            )


RECIPE = Recipe(
    name="paraspeechcaps",
    title="ParaSpeechCaps",
    pages=("ajd12342/paraspeechcaps", "https://github.com/ajd12342/paraspeechcaps"),
    license="unknown",
    text_license="CC-BY-NC-SA-4.0",
    redistributable=False,
    domain="speech",
    captions="machine, from tags of people (base) and models (scaled); 1 or 2 per clip",
    source_id="<voxceleb, expresso, ears or emilia>:<path without extension and _voicefixer>",
    access="request",
    placement="data/<split>-*.parquet as published; the four sources prepared as its page says in voxceleb/, "
    "expresso/, ears/, emilia/",
    expected=("data/*.parquet", "voxceleb|expresso|ears|emilia"),
    rows=rows,
    not_checked="the name of the model that wrote the captions",
)
