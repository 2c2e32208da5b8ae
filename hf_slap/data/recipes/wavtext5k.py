"""WavText5K: sound effects of BigSoundBank and SoundBible with their titles and descriptions."""

import re
from pathlib import Path

from .base import Recipe, Row
from .captions import human
from .readers import named_list, table


def rows(folder: Path):
    for row in table(folder / "WavText5K.csv", "view_link title description fname tags"):
        soundbible = re.search(r"soundbible\.com/(\d+)-", row["view_link"])
        bank = re.search(r"bigsoundbank\.com/detail-(\d+)", row["view_link"])
        key = row["fname"].removesuffix(".wav")
        yield Row(
            key=key,
            sound=[f"{place}/{row['fname']}" for place in ("audios", "download", "audio")]
            + [f"44100/audios/{row['fname']}"],
            captions=human(row["title"], style="title") + human(row["description"], style="description"),
            source_id=f"soundbible:{soundbible[1]}" if soundbible else f"bigsoundbank:{bank[1]}" if bank else None,
            labels=list(dict.fromkeys(named_list(row["tags"]))),
        )


RECIPE = Recipe(
    name="wavtext5k",
    title="WavText5K",
    pages=("https://github.com/microsoft/WavText5K",),
    license="unknown",
    text_license="unknown",
    redistributable=False,
    domain="sound",
    captions="human; title and, mostly, description",
    source_id="soundbible:<number> or bigsoundbank:<number>",
    access="download",
    placement="WavText5K.csv as published; its script's files in audio/ (or its own download/, 44100/audios/)",
    expected=("WavText5K.csv", "audio|audios|download|44100/audios"),
    rows=rows,
)
