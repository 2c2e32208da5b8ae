"""GTZAN's fault-filtered test set: 290 excerpts without the repetitions and distortions that Sturm (2013) found.

The lists are those of Kereliuk, Sturm and Larsen (2015), as torchaudio's `gtzan_split` and EVAR have them.
"""

_NUMBERS = {
    "blues": "12-28 61-72 98-99",
    "classical": "11-29 34-41 49 77-79",
    "country": "30-40 43-44 46-48 50-51 53-64",
    "disco": "1 21 58 62-66 69 76-88 91-94 96-97 99",
    "hiphop": "0 26-27 30 40 43-45 51-54 62-75 99",
    "jazz": "73-99",
    "metal": "12-15 22-23 25-33 38-39 67 70 73-75 78 83 85 87-88",
    "pop": "0-1 13-14 43 63-66 69-79 82 88-96",
    "reggae": "34-40 46-48 52-53 64-68 71 79 82-84 87-90",
    "rock": "10-15 27-37 39-48 86-90",
}


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


FILTERED_TEST = frozenset(
    f"{genre}.{number:05d}" for genre, parts in _NUMBERS.items() for part in parts.split() for number in _range(part)
)
