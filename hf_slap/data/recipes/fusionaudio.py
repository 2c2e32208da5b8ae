"""FusionAudio-1.2M: long machine-written captions of AudioSet clips."""

from pathlib import Path, PurePosixPath

from .audiosetcaps import _ID
from .base import Recipe, Row, youtube_paths
from .captions import machine
from .readers import json_rows, matching, parquet


def rows(folder: Path):
    for path in matching(folder, "*.json*"):
        yield from map(_row, json_rows(path, "audio_id"))
    yield from map(_row, parquet(folder, "**/*.parquet", "audio_id"))


def _row(row: dict) -> Row:
    name = PurePosixPath(row["audio_id"]).name.removesuffix(".wav")
    match = _ID.fullmatch(name)
    video, start = (match[1], match[2]) if match else (name, None)
    return Row(
        key=name,
        sound=[f"audio/{name}", *youtube_paths(video, start, "+10")],
        captions=machine("unknown", row.get("caption") or row.get("output") or ""),
        source_id=f"youtube:{video}",
        segment=(start, "+10"),
    )


RECIPE = Recipe(
    name="fusionaudio",
    title="FusionAudio-1.2M",
    pages=("SatsukiVie/FusionAudio", "https://github.com/satsuki2486441738/FusionAudio"),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="sound",
    captions="machine (language model over several experts); 1 per clip",
    source_id="youtube:<video>",
    access="ids",
    placement="its .json, .jsonl or .parquet files (audio_id; caption or output); sound in audio/, <audio_id>.wav",
    expected=("*.json|*.jsonl|**/*.parquet", "audio"),
    rows=rows,
    not_checked="file names, columns, licence and model: no access to the data set's page",
)
