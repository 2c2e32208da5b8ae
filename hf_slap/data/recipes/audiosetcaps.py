"""AudioSetCaps: machine-written captions of AudioSet, VGGSound and 4 million clips of YouTube-8M."""

import re
from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import machine
from .readers import table

TABLES = ("AudioSetCaps_caption", "VGGSound_AudioSetCaps_caption", "YouTube-8M_AudioSetCaps_caption")
# "Y<video>" in AudioSet's table, "<video>_<start>" in VGGSound's, "<video>_<start>_<seconds>" in YouTube-8M's
_ID = re.compile(r"(?:Y(?=[\w-]{11}$))?([\w-]{11})(?:_(\d+))?(?:_(\d+))?")


def rows(folder: Path):
    for name in TABLES:
        for path in (folder / "Dataset" / f"{name}.csv", folder / f"{name}.csv"):
            if path.is_file():
                yield from _rows(path, name)
                break


def _rows(path: Path, name: str):
    for row in table(path, "id caption"):
        video, start, length = match.groups() if (match := _ID.fullmatch(row["id"])) else (row["id"], None, None)
        end = f"+{length or 10}"
        yield Row(
            key=row["id"],
            sound=[f"audio/{row['id']}", *youtube_paths(video, start, end, "audio|audio/" + name.split("_")[0])],
            captions=machine("unknown", row["caption"]),
            source_id=f"youtube:{video}",
            segment=(start, end),
        )


RECIPE = Recipe(
    name="audiosetcaps",
    title="AudioSetCaps (6.1 M)",
    pages=("baijs/AudioSetCaps", "https://github.com/JishengBai/AudioSetCaps"),
    license="unknown",
    text_license="CC-BY-4.0",
    redistributable=False,
    domain="sound",
    captions="machine (audio-language model, then a language model); 1 per clip",
    source_id="youtube:<video>; segment where the id states a start",
    access="ids",
    placement="Dataset/*_caption.csv as published; sound in audio/, <id>.wav. It holds evaluation clips: remove leaks",
    expected=tuple(["|".join(f"{place}{name}.csv" for name in TABLES for place in ("Dataset/", "")), "audio"]),
    rows=rows,
    not_checked="the models' names",
)
