"""JamendoMaxCaps: 362 k instrumental tracks of Jamendo, a machine-written caption for every 30 s."""

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath

from .base import Recipe, Row
from .captions import machine
from .readers import matching, parquet

CAPTIONS = "final_caption30sec.jsonl"


def rows(folder: Path):
    path = next(place / CAPTIONS for place in (folder, folder / "data") if (place / CAPTIONS).is_file())
    lines: dict[str, list[int]] = defaultdict(list)  # where the captions of a track are; they do not fit in memory
    with open(path, "rb") as file:
        position = 0
        for line in file:
            if line.strip():
                lines[str(json.loads(line)["id"])].append(position)
            position += len(line)
        if matching(folder, "data/*.parquet"):
            audio = (row["audio"] for row in parquet(folder, "data/*.parquet", "audio"))
            tracks = ((PurePosixPath(sound["path"]).stem, sound) for sound in audio)
        else:
            tracks = ((track, f"audio/{track}") for track in lines)
        for track, sound in tracks:
            for position in lines.get(track, []):
                file.seek(position)
                yield _row(track, sound, json.loads(file.readline()))


def _row(track: str, sound, part: dict) -> Row:
    span = (part.get("start_time"), part.get("end_time"))
    return Row(
        key=track if span[0] is None else f"{track}_{span[0]:g}",
        sound=sound,
        captions=machine("Qwen2-Audio", part["caption"]),
        source_id=f"jamendo:{track}",
        segment=span,
        cut=span,
    )


RECIPE = Recipe(
    name="jamendomaxcaps",
    title="JamendoMaxCaps",
    pages=("amaai-lab/JamendoMaxCaps", "https://github.com/AMAAI-Lab/JamendoMaxCaps"),
    license="LicenseRef-Jamendo (Creative Commons, per track)",
    text_license="CC-BY-SA-3.0",
    redistributable=False,
    domain="music",
    captions="machine (Qwen2-Audio); 1 per 30 s",
    source_id="jamendo:<track>, segment",
    access="download",
    placement=f"{CAPTIONS} and data/*.parquet as published; or the tracks in audio/, <id>.mp3",
    expected=(f"{CAPTIONS}|data/{CAPTIONS}", "data/*.parquet|audio"),
    rows=rows,
    not_checked="that start_time and end_time are numbers of seconds; the licence of each track",
)
