"""LibriSpeech: 1,000 hours of English audiobooks with their text."""

from pathlib import Path

from .base import Recipe, Row
from .captions import human, template
from .readers import first_folder, matching

SPLITS = {"train": "train", "dev": "validation", "test": "test"}
PERSONS = {"F": "a woman", "M": "a man"}


def rows(folder: Path):
    root = folder / first_folder(folder, "LibriSpeech")
    persons = {}
    if (root / "SPEAKERS.TXT").is_file():
        for line in (root / "SPEAKERS.TXT").read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith(";"):
                number, sex = line.split("|")[:2]
                persons[number.strip()] = PERSONS.get(sex.strip(), "a person")
    for path in matching(root, "*/*/*/*.trans.txt"):
        part, speaker = path.relative_to(root).parts[:2]
        for line in path.read_text(encoding="utf-8").splitlines():
            key, _, words = line.partition(" ")
            person = persons.get(speaker, "a person")
            yield Row(
                key=key,
                sound=(path.parent / f"{key}.flac").relative_to(folder).as_posix(),
                captions=template("reading", key, person) + human(words.lower(), style="transcript"),
                split=SPLITS.get(part.split("-")[0], "train"),
            )


RECIPE = Recipe(
    name="librispeech",
    title="LibriSpeech",
    pages=("https://www.openslr.org/12", "openslr/librispeech_asr"),
    license="CC-BY-4.0",
    text_license="CC-BY-4.0",
    redistributable=True,
    domain="speech",
    captions="human (transcript, lower case) and template from the speaker's sex",
    source_id="librispeech:<utterance>",
    access="download",
    placement="LibriSpeech/<part>/<speaker>/<chapter>/*.flac and *.trans.txt, and SPEAKERS.TXT, as unpacked",
    expected=("**/*.trans.txt",),
    rows=rows,
)
