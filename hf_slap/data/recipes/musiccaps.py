"""MusicCaps: 5.5 k ten-second clips of AudioSet with captions by musicians."""

from pathlib import Path

from .base import Recipe, Row, youtube_paths
from .captions import human
from .readers import named_list, table

COLUMNS = "ytid start_s end_s aspect_list caption is_audioset_eval"


def rows(folder: Path):
    for row in table(folder / "musiccaps-public.csv", COLUMNS):
        aspects = named_list(row["aspect_list"])
        yield Row(
            key=f"{row['ytid']}_{row['start_s']}",
            sound=youtube_paths(row["ytid"], row["start_s"], row["end_s"]),
            captions=human(row["caption"]) + human(", ".join(aspects), style="aspects"),
            source_id=f"youtube:{row['ytid']}",
            segment=(row["start_s"], row["end_s"]),
            labels=aspects,
            split="test" if row["is_audioset_eval"].lower() == "true" else "train",
        )


RECIPE = Recipe(
    name="musiccaps",
    title="MusicCaps",
    pages=("google/MusicCaps",),
    license="unknown",
    text_license="CC-BY-SA-4.0",
    redistributable=False,
    domain="music",
    captions="human; a text and a list of aspects per clip",
    source_id="youtube:<video>, segment of 10 s",
    access="ids",
    placement="musiccaps-public.csv as published; sound in audio/, <ytid>_<start_s>.wav or <ytid>.wav",
    expected=("musiccaps-public.csv", "audio"),
    rows=rows,
)
