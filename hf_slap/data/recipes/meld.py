"""MELD: utterances of a television series with emotions."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human, voice
from .readers import table

TABLES = {  # table: (split, folders that its clips unpack to)
    "train_sent_emo": ("train", ("train_splits", "train/train_splits")),
    "dev_sent_emo": ("validation", ("dev_splits_complete", "dev/dev_splits_complete")),
    "test_sent_emo": ("test", ("output_repeated_splits_test", "test/output_repeated_splits_test")),
}


def rows(folder: Path):
    for name, (split, places) in TABLES.items():
        if not (folder / f"{name}.csv").is_file():
            continue
        for row in table(folder / f"{name}.csv", "Utterance Emotion Dialogue_ID Utterance_ID"):
            clip = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            words = row["Utterance"].replace("\x92", "’").replace("\x85", "…").replace("\x97", "—")  # cp1252 left in
            yield Row(
                key=f"{split}/{clip}",
                sound=[f"{place}/{clip}" for place in places],
                captions=human(words, style="transcript") + voice(clip, row["Emotion"]),
                labels=[row["Emotion"]],
                split=split,
            )


RECIPE = Recipe(
    name="meld",
    title="MELD",
    pages=("https://github.com/declare-lab/MELD", "https://affective-meld.github.io/"),
    license="unknown",
    text_license="GPL-3.0",
    redistributable=False,
    domain="speech",
    captions="human (transcript) and template from 1 of 7 emotions",
    source_id="meld:<split>/dia<n>_utt<n>",
    access="download",
    placement="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv beside train_splits/, dev_splits_complete/, "
    "output_repeated_splits_test/ (mp4: needs torchcodec)",
    expected=("*_sent_emo.csv", "|".join(place for _, places in TABLES.values() for place in places)),
    rows=rows,
    not_checked="the licence of the text",
)
