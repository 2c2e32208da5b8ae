"""CMU-MOSI and CMU-MOSEI: opinions spoken on YouTube, with text and sentiment."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human, voice
from .readers import first_folder, matching, table

SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def _labels(folder: Path) -> dict[tuple[str, str], dict]:
    """Sentiment and split, by (video, clip), where the label.csv of the MMSA distribution lies beside the data."""
    path = folder / "label.csv"
    if not path.is_file():
        return {}
    return {(row["video_id"], row["clip_id"]): row for row in table(path, "video_id clip_id annotation mode")}


def _row(name: str, video: str, clip: str, words: str, about: dict, **where) -> Row:
    key = f"{video}_{clip}"
    sentiment = about.get("annotation", "")
    return Row(
        key=key,
        captions=human(words.strip().lower(), style="transcript")
        + voice(key, sentiment if sentiment != "Neutral" else ""),
        source_id=f"{name}:{key}",
        labels=[sentiment.lower()] * bool(sentiment),
        split=SPLITS.get(about.get("mode", ""), "train"),
        **where,
    )


def mosi(folder: Path):
    labels, root = _labels(folder), first_folder(folder, "Raw")
    for path in matching(folder, f"{root}Transcript/Segmented/*.annotprocessed"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            clip, mark, words = line.partition("_DELIM_")
            if mark:
                sound = f"{root}Audio/WAV_16000/Segmented/{path.stem}_{clip}.wav"
                yield _row("cmu_mosi", path.stem, clip, words, labels.get((path.stem, clip), {}), sound=sound)


def mosei(folder: Path):
    labels, root = _labels(folder), first_folder(folder, "Raw")
    for path in matching(folder, f"{root}Transcript/Segmented/Combined/*.txt"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            parts = line.split("___")
            if len(parts) == 5:
                video, clip, start, end, words = (part.strip() for part in parts)
                where = {
                    "sound": f"{root}Audio/Full/WAV_16000/{video}.wav",
                    "cut": (start, end),
                    "segment": (start, end),
                }
                yield _row("cmu_mosei", video, clip, words, labels.get((video, clip), {}), **where)


RECIPES = [
    Recipe(
        name=name,
        title=title,
        pages=("https://github.com/CMU-MultiComp-Lab/CMU-MultimodalSDK",),
        license="unknown",
        text_license="unknown",
        redistributable=False,
        domain="speech",
        captions="human (transcript, lower case); template where label.csv states a sentiment",
        source_id=f"{name}:<video>_<clip>",
        access="request",
        placement=f"Raw/Audio/{audio} and Raw/Transcript/{text} as unpacked; MMSA's label.csv for sentiment and splits",
        expected=(f"Raw/Transcript/{text}|Transcript/{text}", f"Raw/Audio/{audio}|Audio/{audio}"),
        rows=rows,
        not_checked="the form of the transcripts and of label.csv, the licence, and how it is given away today",
    )
    for name, title, audio, text, rows in (
        ("cmu_mosi", "CMU-MOSI", "WAV_16000/Segmented/*.wav", "Segmented/*.annotprocessed", mosi),
        ("cmu_mosei", "CMU-MOSEI", "Full/WAV_16000/*.wav", "Segmented/Combined/*.txt", mosei),
    )
]
