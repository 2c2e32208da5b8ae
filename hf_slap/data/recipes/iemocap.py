"""IEMOCAP: ten actors in five sessions, with emotions of several judges."""

import re
from pathlib import Path

from .base import Recipe, Row
from .captions import human, voice
from .readers import matching

_TURN = re.compile(r"^\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w+)\t", re.MULTILINE)
_WORDS = re.compile(r"^(\S+) \[[\d.]+-[\d.]+\]: (.*)$", re.MULTILINE)


def rows(folder: Path):
    for path in matching(folder, "**/Session*/dialog/EmoEvaluation/Ses*.txt"):
        session, dialogue = path.parents[2], path.stem
        said = session / "dialog" / "transcriptions" / path.name
        words = dict(_WORDS.findall(said.read_text(encoding="latin-1"))) if said.is_file() else {}
        for _, _, turn, emotion in _TURN.findall(path.read_text(encoding="latin-1")):
            yield Row(
                key=turn,
                sound=(session / "sentences" / "wav" / dialogue / f"{turn}.wav").relative_to(folder).as_posix(),
                captions=human(words.get(turn, ""), style="transcript") + voice(turn, emotion),
                labels=[emotion],
            )


RECIPE = Recipe(
    name="iemocap",
    title="IEMOCAP",
    pages=("https://sail.usc.edu/iemocap/",),
    license="LicenseRef-IEMOCAP (research, signed)",
    text_license="LicenseRef-IEMOCAP (research, signed)",
    redistributable=False,
    domain="speech",
    captions="human (transcript) and template from the emotion, unless it is other or undecided",
    source_id="iemocap:<turn>",
    access="request",
    placement="Session1/ to Session5/ as unpacked (dialog/EmoEvaluation, dialog/transcriptions, sentences/wav)",
    expected=("**/Session*/dialog/EmoEvaluation/Ses*.txt", "**/Session*/sentences/wav"),
    rows=rows,
    not_checked="the wording of the licence",
)
