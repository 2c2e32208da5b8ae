"""Captions by provenance. Which template a labelled clip gets is a function of its id alone."""

import hashlib
import re
from collections.abc import Sequence

from ..records import Caption

TEMPLATES = {
    "sound": ("{} can be heard", "the sound of {}", "a recording of {}", "{}"),
    "scene": ("the sound of {}", "sounds recorded in {}", "the atmosphere in {}"),
    "genre": ("{} music", "a piece of {} music", "{} music can be heard"),
    "note": ("{}", "a single note: {}", "{} can be heard"),
    "emotion": ("a person speaking in {} voice", "speech in {} voice", "someone talks in {} voice"),
    "action": ("the sound of {}", "the sound of a person {}", "{}"),
    "speech": ('{} says "{}"', '{} saying "{}"', 'speech of {}: "{}"'),
    "reading": ("{} reads aloud", "the voice of {}", "{} speaking"),
}
VOICES = {
    **{"anger": "an angry", "ang": "an angry", "disgust": "a disgusted", "dis": "a disgusted", "exc": "an excited"},
    **{"fear": "a frightened", "fea": "a frightened", "fru": "a frustrated", "happiness": "a happy", "hap": "a happy"},
    **{"joy": "a joyful", "neu": "a neutral", "neutral": "a neutral", "sad": "a sad", "sadness": "a sad"},
    **{"sur": "a surprised", "surprise": "a surprised", "contempt": "a contemptuous"},
    **{"positive": "a pleased", "negative": "a displeased"},
}


def human(*texts: str, style: str = "") -> list[Caption]:
    """Captions that people wrote; empty texts are left out when the record is made."""
    return [Caption(text, style=style) for text in texts]


def machine(model: str, *texts: str, style: str = "") -> list[Caption]:
    """Captions that a machine wrote; model "unknown" where the source does not name it."""
    return [Caption(text, style=style, provenance="machine", model=model) for text in texts]


def template(kind: str, key: str, *parts: str) -> list[Caption]:
    """One caption from a template, or none where there is nothing to fill in.

    Args:
        kind: a key of `TEMPLATES`.
        key: the clip's id; its SHA-256 chooses among the templates.
        parts: what fills the gaps.
    """
    if not all(parts):
        return []
    templates = TEMPLATES[kind]
    number = int.from_bytes(hashlib.sha256(f"{kind}/{key}".encode()).digest()[:8], "big") % len(templates)
    return [Caption(templates[number].format(*parts), style=kind, provenance="template")]


def from_labels(kind: str, key: str, labels: Sequence[str]) -> list[Caption]:
    """A template's caption that enumerates the labels, each as people read it."""
    return template(kind, key, enumerate_words(list(dict.fromkeys(map(readable, labels)))))


def voice(key: str, emotion: str) -> list[Caption]:
    """A template's caption for an emotion; none where the label is no emotion ("other", "no agreement")."""
    return template("emotion", key, VOICES.get(emotion.strip().lower(), ""))


def says(key: str, person: str, words: str) -> list[Caption]:
    """A template's caption that quotes what is said."""
    return template("speech", key, person, words.strip())


def readable(label: str) -> str:
    """A label as it is said: "Male_speech_and_man_speaking", "Bark, yip" -> "male speech and man speaking", "bark"."""
    first = re.sub(r"\(.*?\)", "", label.split(",")[0])
    return re.sub(r"[_/\s]+", " ", first).strip().lower()


def a(words: str) -> str:
    """Words with their indefinite article."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def enumerate_words(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
