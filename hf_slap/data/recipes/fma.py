"""FMA: tracks of the Free Music Archive with genres."""

import csv
from pathlib import Path

from .base import Recipe, Row
from .captions import from_labels

SPLITS = {"training": "train", "validation": "validation", "test": "test"}
FOLDERS = ("fma_full", "fma_large", "fma_medium", "fma_small")


def rows(folder: Path):
    places = [place for place in FOLDERS if (folder / place).is_dir()]
    table = next(path for path in (folder / "fma_metadata" / "tracks.csv", folder / "tracks.csv") if path.is_file())
    with open(table, encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        columns = {pair: number for number, pair in enumerate(zip(next(reader), next(reader), strict=True))}
        next(reader)  # a third header row that only says "track_id"
        wanted = [("track", "genre_top"), ("track", "license"), ("set", "split")]
        if missing := [pair for pair in wanted if pair not in columns]:
            raise ValueError(f"{table} has no columns {missing} in its first two rows")
        for row in reader:
            number = f"{int(row[0]):06d}"
            genre, license, split = (row[columns[pair]] for pair in wanted)
            yield Row(
                key=number,
                sound=[f"{place}/{number[:3]}/{number}.mp3" for place in places],
                captions=from_labels("genre", number, [genre]),
                labels=[genre] * bool(genre),
                license=license or None,
                split=SPLITS.get(split, "train"),
            )


RECIPE = Recipe(
    name="fma",
    title="FMA",
    pages=("https://github.com/mdeff/fma", "benjamin-paine/free-music-archive-full"),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="music",
    captions="template from 1 of 16 genres; tracks without a genre are reported and left out",
    source_id="fma:<number>",
    access="download",
    placement="fma_metadata/tracks.csv and fma_small/ (or _medium, _large, _full) as unpacked",
    expected=("fma_metadata/tracks.csv|tracks.csv", "|".join(FOLDERS)),
    rows=rows,
)
