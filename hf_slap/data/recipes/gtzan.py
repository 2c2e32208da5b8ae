"""GTZAN: 1,000 excerpts of 30 s in 10 genres. To judge by."""

from pathlib import Path, PurePosixPath

from .base import Recipe, Row
from .captions import from_labels
from .readers import sounds


def rows(folder: Path):
    for pattern in ("genres/*/*", "genres_original/*/*", "Data/genres_original/*/*"):
        for path in sounds(folder, pattern):
            key, genre = PurePosixPath(path).stem, PurePosixPath(path).parent.name
            yield Row(key=key, sound=path, captions=from_labels("genre", key, [genre]), labels=[genre], split="test")


RECIPE = Recipe(
    name="gtzan",
    title="GTZAN",
    pages=("marsyas/gtzan",),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="music",
    captions="template from 1 of 10 genres",
    source_id="gtzan:<file>",
    access="download",
    placement="genres/<genre>/ (or genres_original/<genre>/) as unpacked; one mirror's jazz.00054 is broken",
    expected=("genres|genres_original|Data/genres_original",),
    rows=rows,
)
