"""WavCaps, four parts: descriptions found on the web, rewritten by ChatGPT to one caption per clip."""

from pathlib import Path

from .base import Recipe, Row
from .captions import machine
from .readers import json_rows

PARTS = {  # name: (folder of the source, its file, origin of the ids)
    "audioset": ("AudioSet_SL", "as_final.json", "youtube"),
    "bbc": ("BBC_Sound_Effects", "bbc_final.json", "bbc"),
    "freesound": ("FreeSound", "fsd_final.json", "freesound"),
    "soundbible": ("SoundBible", "sb_final.json", "soundbible"),
}


def _rows(part: str, file: str, origin: str):
    def rows(folder: Path):
        for row in json_rows(folder / "json_files" / part / file, "id caption"):
            number = str(row["id"]).removesuffix(".wav")
            own = {"youtube": number[1:], "bbc": number.lower()}.get(origin, number)  # AudioSet's begin with a Y
            yield Row(
                key=number,
                sound=[f"{place}/{number}" for place in (f"Audio/{part}", f"audio/{part}", part, f"{part}_flac")],
                captions=machine("ChatGPT", row["caption"]),
                source_id=f"{origin}:{own}",
            )

    return rows


RECIPES = [
    Recipe(
        name=f"wavcaps_{name}",
        title=f"WavCaps, {part}",
        pages=("cvssp/WavCaps", "https://github.com/XinhaoMei/WavCaps"),
        license="LicenseRef-WavCaps (academic use only)",
        text_license="LicenseRef-WavCaps (academic use only)",
        redistributable=False,
        domain="sound",
        captions="machine (ChatGPT, from web descriptions or labels); 1 per clip",
        source_id={"youtube": "youtube:<video>, segment not stated"}.get(origin, f"{origin}:<id>"),
        access="download",
        placement=f"json_files/{part}/{file} as published; the unpacked FLAC files in Audio/{part}/",
        expected=(f"json_files/{part}/{file}", f"Audio/{part}|audio/{part}|{part}|{part}_flac"),
        rows=_rows(part, file, origin),
    )
    for name, (part, file, origin) in PARTS.items()
]
