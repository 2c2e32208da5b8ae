"""The rules by which captions are made alike, and by which a text is no caption. Each has a name and is counted."""

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Callable

MIN_LETTERS = 2
MAX_CHARACTERS = 2000

_INVISIBLE = {"Cc", "Cf", "Co", "Cn"}  # control, format, private and unassigned characters
_QUOTES = str.maketrans("\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033", "'''''\"\"\"\"\"")
_TAG = re.compile(r"</?(?:br|p|b|i|em|strong|span|div|a)\b[^<>]*>", re.IGNORECASE)
_ENDING = re.compile(r"[\s.,;:\u2026]*[.,;:\u2026]$")
_NO_CAPTION = re.compile(
    r"(?:n/?a|none|null|nan|unknown|untitled|no (?:caption|description|title)|test|todo|tbd|error)[.!]?"
    r"|(?:https?://|www\.)\S+"
    r"|[\w\-. ()]+\.(?:wav|mp3|flac|ogg|opus|m4a|aiff?|mp4)"
    r"|.*\bas an? (?:ai|artificial intelligence|language model)\b.*"
    r"|(?:i'?m sorry|sorry),? (?:but )?i (?:can(?:no|')t|am unable|am not able|do not|don't)\b.*"
    r"|i (?:can(?:no|')t|am unable to) (?:hear|listen|process|access|describe|provide)\b.*",
    re.IGNORECASE | re.DOTALL,
)


def _html_entities(text: str) -> str:
    """ "Cat &amp; dog<br>" is "Cat & dog "."""
    return _TAG.sub(" ", html.unescape(text))


def _unicode(text: str) -> str:
    """NFC; control characters are spaces, invisible ones and the replacement character are gone."""
    text = unicodedata.normalize("NFC", text)
    spaced = (" " if one.isspace() else one for one in text)
    return "".join(one for one in spaced if one != "\ufffd" and unicodedata.category(one) not in _INVISIBLE)


def _quotes(text: str) -> str:
    """Curly quotes and primes are straight ones; a pair around the whole text is gone."""
    text = text.translate(_QUOTES).strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _whitespace(text: str) -> str:
    """One space between words, none at the ends, none before a comma or a full stop."""
    return re.sub(r" (?=[,.;!?](?:\s|$))", "", " ".join(text.split()))


def _trailing_dots(text: str) -> str:
    """ "A dog barks...", "A dog barks .", "A dog barks," end in one full stop; a text without any gets none."""
    return _ENDING.sub(".", text)


def _case(text: str) -> str:
    """A TEXT OF SEVERAL WORDS IN CAPITALS becomes a sentence; any other keeps its case."""
    return text[0] + text[1:].lower() if text.isupper() and len(text.split()) > 2 else text


# In this order. A rule counts when it changes a text.
CHANGES: dict[str, Callable[[str], str]] = {
    "html_entities": _html_entities,
    "unicode": _unicode,
    "quotes": _quotes,
    "whitespace": _whitespace,
    "trailing_dots": _trailing_dots,
    "case": _case,
}
# In this order, after the changes. A text of which one is true is dropped.
REFUSALS: dict[str, Callable[[str], bool]] = {
    "empty": lambda text: not text.strip(" .,;:!?-_'\"()[]"),
    "too_short": lambda text: sum(one.isalpha() for one in text) < MIN_LETTERS,
    "too_long": lambda text: len(text) > MAX_CHARACTERS,
    "no_caption": lambda text: _NO_CAPTION.fullmatch(text) is not None,
}


def clean_text(text: str, counts: Counter | None = None) -> str | None:
    """A caption by the rules above, None where it is no caption.

    Args:
        text: as a source has it.
        counts: gets one for each rule that applied, under its name.
    Not stated in the papers; ours. Lower case and punctuation are the tokenizer's business.
    """
    counts = Counter() if counts is None else counts
    for name, change in CHANGES.items():
        changed = change(text)
        if changed != text:
            counts[name] += 1
        text = changed
    for name, refuses in REFUSALS.items():
        if refuses(text):
            counts[name] += 1
            return None
    return text


def same_text_key(text: str) -> str:
    """Equal for captions that differ in case, punctuation and spaces only."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text
