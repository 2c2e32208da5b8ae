"""MSP-Podcast: spontaneous speech of podcasts with emotions."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human, voice
from .readers import table

EMOTIONS = dict(A="anger", S="sadness", H="happiness", U="surprise", F="fear", D="disgust", C="contempt", N="neutral")
SPLITS = {"Train": "train", "Development": "validation"}  # all others are tests


def rows(folder: Path):
    for row in table(folder / "Labels" / "labels_consensus.csv", "FileName EmoClass Split_Set"):
        key = row["FileName"].removesuffix(".wav")
        emotion = EMOTIONS.get(row["EmoClass"], "")  # O: other, X: no agreement
        said = folder / "Transcripts" / f"{key}.txt"
        words = said.read_text(encoding="utf-8") if said.is_file() else ""
        yield Row(
            key=key,
            sound=[f"Audios/{row['FileName']}", f"Audio/{row['FileName']}"],
            captions=voice(key, emotion) + human(words, style="transcript"),
            labels=[emotion] * bool(emotion),
            split=SPLITS.get(row["Split_Set"], "test"),
        )


RECIPE = Recipe(
    name="msp_podcast",
    title="MSP-Podcast",
    pages=("https://www.lab-msp.com/MSP/MSP-Podcast.html",),
    license="LicenseRef-MSP-Podcast (academic, signed)",
    text_license="LicenseRef-MSP-Podcast (academic, signed)",
    redistributable=False,
    domain="speech",
    captions="template from the emotion; human (transcript) where there is one; clips without either are left out",
    source_id="msp_podcast:<file>",
    access="request",
    placement="Labels/labels_consensus.csv, Audios/, Transcripts/ as given",
    expected=("Labels/labels_consensus.csv", "Audios|Audio"),
    rows=rows,
    not_checked="the form of the transcripts and the licence",
)
