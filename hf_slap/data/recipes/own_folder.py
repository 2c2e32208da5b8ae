"""A folder of your own: sound files with a text file of the same name beside them, or in a folder per class."""

from pathlib import Path, PurePosixPath

from .base import Recipe
from .own import own_row
from .readers import sounds


def rows(folder: Path):
    for path in sounds(folder):
        beside = (folder / path).with_suffix(".txt")
        if beside.is_file():
            texts = {"captions": [line.strip() for line in beside.read_text(encoding="utf-8").splitlines()]}
        else:
            texts = {"label": PurePosixPath(path).parent.name}  # "" at the top: reported as a clip without a caption
        yield own_row(texts, path)


RECIPE = Recipe(
    name="folder",
    title="a folder of sound files",
    pages=(),
    license="unknown",
    text_license="yours",
    redistributable=False,
    domain="sound",
    captions="human: one per line of <name>.txt; else template from the folder's name",
    source_id="<name>:<path without extension>",
    access="own",
    placement="sound files at any depth, each with a .txt of the same name, or in a folder called like its class",
    expected=(),
    rows=rows,
)
