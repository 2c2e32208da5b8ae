"""What a recipe is: a source of captioned sound, declared, and how its rows become records."""

import dataclasses
import glob
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..records import Caption, Record, RecordError, validate

SOUND_EXTENSIONS = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".m4a", ".mp4", ".webm", ".aac", ".aif", ".aiff")
ACCESS = {
    "download": "free download",
    "ids": "text is free; the sound is fetched by its ids and placed by you",
    "request": "on request, placed by you",
    "own": "your own files",
}
_MOST_LISTED = 20


@dataclasses.dataclass
class Row:
    """A clip as its source has it. What is None is the recipe's.

    Args:
        key: the source's own id of the clip; the record's id is "<recipe>/<key>".
        sound: {"bytes", "path"}, or the file below the folder: one path or several that may be it, with its extension
            or without.
        captions: those without text are left out.
        source_id: see `Record`; None is "<recipe>:<key>".
        segment, cut: (start, end) in seconds as numbers, their text, or "hh:mm:ss.sss"; an end "+10" is 10 s after the
            start. See `Record`; without a start or an end there is none.
        license: as the source writes it: an SPDX id, the address of a licence or its name.
        redistributable: None follows from a clip's own licence, else it is the recipe's.
        others: see `Record`.
    """

    key: str
    sound: dict | str | Sequence[str]
    captions: list[Caption]
    source_id: str | None = None
    split: str = "train"
    labels: Sequence[str] = ()
    segment: tuple | None = None
    cut: tuple | None = None
    license: str | None = None
    redistributable: bool | None = None
    domain: str | None = None
    language: str | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A source of captioned sound.

    Args:
        name: in records, a-z, 0-9 and '_'.
        title: for people.
        pages: dataset ids on the Hub ("org/name") and addresses.
        license: of the sound, where a clip does not state its own.
        text_license: of captions and labels.
        redistributable: whether `license` lets the sound be given away, for any purpose.
        domain: one of `DOMAINS`, where a clip does not state its own.
        captions: what they are: provenance, styles and number per clip.
        source_id: the rule of the canonical id.
        access: a key of `ACCESS`.
        placement: how the files lie in the folder that `records` takes.
        expected: glob patterns below that folder of which each must match; alternatives are joined by "|".
        rows: the rows of a folder, in an order that only depends on its content.
        language: of the captions, BCP 47.
        not_checked: facts that could not be checked against the source itself.
    """

    name: str
    title: str
    pages: tuple[str, ...]
    license: str
    text_license: str
    redistributable: bool
    domain: str
    captions: str
    source_id: str
    access: str
    placement: str
    expected: tuple[str, ...]
    rows: Callable[[Path], Iterator[Row]] = dataclasses.field(repr=False)
    language: str = "en"
    not_checked: str = ""

    @property
    def downloadable(self) -> bool:
        """Whether text and sound can be downloaded by anybody, without asking or collecting."""
        return self.access == "download"

    @property
    def how_to_get(self) -> str:
        """A few lines for a message: where it is, under which terms, how to place it."""
        lines = [f"{self.title}: {', '.join(self.pages) or 'no page'}", f"  get it: {ACCESS[self.access]}"]
        lines += [f"  licence: sound {self.license}; text {self.text_license}", f"  place it: {self.placement}"]
        return "\n".join(lines + [f"  not checked: {self.not_checked}"] * bool(self.not_checked))

    def records(self, folder: str | os.PathLike) -> Iterator[Record | RecordError]:
        """The records of a folder that holds the source's files. No sound is opened.

        Args:
            folder: laid out as `placement` says; recipes for your own files take the path of one file as well.
        Yields:
            A Record, or instead of it a RecordError for a row that cannot be one: no sound file, no caption, a number
            that is none.
        Raises:
            FileNotFoundError: something of `expected` is missing, or not one row has a sound file; says what is there.
            ValueError: a table lacks columns, or cannot be read.
        """
        folder = Path(folder).expanduser()
        self._check(folder)
        return self._records(folder)

    def _records(self, folder: Path) -> Iterator[Record | RecordError]:
        find = SoundFinder(folder)
        made, problem = 0, None
        for row in self._rows(folder):
            try:
                record = validate(self._record(row, find), prepared=False)
            except RecordError as error:
                problem = problem or error
                yield error
            else:
                made += 1
                yield record
        if not made:
            first = f"; the first row: {problem}" if problem else ": there are no rows"
            raise FileNotFoundError(
                f"{self.name}: not one clip of {str(folder)!r} can be used{first}\n{self.how_to_get}"
            )

    def _rows(self, folder: Path) -> Iterator[Row]:
        last = None
        try:
            for row in self.rows(folder):
                yield row
                last = row.key
        except (ValueError, KeyError, TypeError) as problem:
            where = "before its first row" if last is None else f"after row {last!r}"
            raise ValueError(f"{self.name}: a file that cannot be read as expected, {where}: {problem!r}") from problem

    def _record(self, row: Row, find: "SoundFinder") -> Record:
        name = f"{self.name}/{row.key}"
        captions = [dataclasses.replace(caption, text=caption.text.strip()) for caption in row.captions if caption.text]
        captions = list(dict.fromkeys(caption for caption in captions if caption.text))
        if not captions:
            raise RecordError(name, "captions", [], "at least one text")
        own_license = spdx(row.license) if row.license else None
        redistributable = row.redistributable
        if redistributable is None:
            redistributable = self.redistributable if own_license is None else is_free(own_license)
        segment = _span(name, "segment", row.segment)
        return Record(
            id=name,
            source=self.name,
            source_id=row.source_id or f"{self.name}:{row.key}",
            audio=row.sound if isinstance(row.sound, dict) else find(name, row.sound),
            captions=captions,
            license=own_license or self.license,
            redistributable=redistributable,
            domain=row.domain or self.domain,
            split=row.split,
            language=row.language or self.language,
            labels=list(row.labels),
            segment=segment and {"start": segment[0], "end": segment[1]},
            cut=_span(name, "cut", row.cut),
        )

    def _check(self, folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(f"{self.name}: no folder {str(folder)!r}\n{self.how_to_get}")
        if folder.is_file() and self.access == "own":
            return
        missing = [wanted for wanted in self.expected if not any(_matches(folder, one) for one in wanted.split("|"))]
        if not missing:
            return
        found = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder)) if folder.is_dir() else []
        more = [f"... and {len(found) - _MOST_LISTED} more"] if len(found) > _MOST_LISTED else []
        lines = [f"{self.name}: {str(folder)!r} is not laid out as expected"]
        lines += [
            f"  {'missing' if wanted in missing else 'found  '}  {wanted.replace('|', ' or ')}"
            for wanted in self.expected
        ]
        lines += [f"  the folder holds: {', '.join(found[:_MOST_LISTED] + more) or 'nothing'}", self.how_to_get]
        raise FileNotFoundError("\n".join(lines))


class SoundFinder:
    """Finds the sound files of a folder by what they may be called; the form that was right last is tried first."""

    def __init__(self, folder: Path):
        self.folder, self.last = str(folder.parent if folder.is_file() else folder), None

    def __call__(self, name: str, paths: str | Sequence[str]) -> dict:
        paths = [paths] if isinstance(paths, str) else paths
        forms = itertools.product(range(len(paths)), ("", *SOUND_EXTENSIONS))
        first = [self.last] if self.last and self.last[0] < len(paths) else []
        for form in itertools.chain(first, forms):
            path = os.path.join(self.folder, paths[form[0]] + form[1])
            if os.path.isfile(path):
                self.last = form
                return {"bytes": None, "path": path}
        extensions = (
            "" if os.path.splitext(paths[0])[1].lower() in SOUND_EXTENSIONS else f" + any of {SOUND_EXTENSIONS}"
        )
        raise RecordError(name, "audio", None, f"a sound file {' or '.join(paths)}{extensions} in {self.folder}")


def youtube_paths(video: str, start: float | str | None = None, end: float | str | None = None, inside: str = "audio"):
    """What downloaders call the clip of a video, best first.

    Args:
        start, end: of the clip in the video, written as in `Row.segment`.
        inside: folders that may hold it, '|' between them.
    """
    names = [video, f"Y{video}"]
    try:
        first, last = _times((start, end)) or (None, None)
    except ValueError:  # said when the record is made
        first = None
    if first is not None:
        whole, finish = int(first), int(last)
        names = [f"{video}_{whole}", f"{video}_{whole:06d}", f"{video}_{first:.3f}", *names, f"Y{video}_{whole}"]
        names += [f"{video}_{whole}_{finish}", f"{video}_{whole * 1000}_{finish * 1000}"]
        names += [f"{video}_{whole:06d}_{finish:06d}", f"[{video}]-[{whole}-{finish}]"]
    return [f"{folder}/{name}" for folder in inside.split("|") for name in names]


def spdx(text: str) -> str:
    """A licence by its SPDX id, from the id, its address at creativecommons.org or its name; else the text as it is."""
    plain = text.strip().lower()
    if "publicdomain/zero" in plain or re.match(r"cc ?0|creative commons 0", plain):
        return "CC0-1.0"
    if "publicdomain/mark" in plain or plain in ("public domain", "public-domain"):
        return "public-domain"
    if "sampling" in plain:
        return "LicenseRef-CC-Sampling-Plus-1.0"
    address = re.search(r"licenses/(by[a-z-]*)/(\d\.\d)", plain)
    if address:
        return f"CC-{address[1].upper()}-{address[2]}"
    if re.fullmatch(r"cc[- ]by([- ](nc|nd|sa))*([- ]\d(\.\d)?)?", plain):
        return plain.replace(" ", "-").upper()
    if "attribution" in plain:
        words = {"NC": r"non.?commercial|\bnc\b", "ND": r"no.?deriv|\bnd\b", "SA": r"share.?alike|\bsa\b"}
        parts = ["CC", "BY", *(part for part, pattern in words.items() if re.search(pattern, plain))]
        version = re.search(r"\d\.\d", plain)
        return "-".join(parts + [version[0]] * bool(version))
    return text.strip()


def is_free(license: str) -> bool:
    """Whether a licence lets sound be given away for any purpose: CC0, CC-BY(-SA), public domain, MIT, Free Art."""
    return (
        re.fullmatch(r"(cc0|cc-by|cc-by-sa)(-\d(\.\d)?)?|public-domain|mit|free-art|lal-1\.[23]", license.lower())
        is not None
    )


def seconds(value: float | str) -> float:
    """Seconds from a number, its text, or "hh:mm:ss.sss"."""
    total = 0.0
    for part in str(value).strip().split(":"):
        total = 60 * total + float(part)
    return total


def _times(span: tuple | None) -> tuple[float, float] | None:
    if span is None or any(time in (None, "") for time in span):
        return None
    start, end = seconds(span[0]), seconds(span[1])
    return start, start + end if str(span[1]).startswith("+") else end


def _span(name: str, field: str, span: tuple | None) -> tuple[float, float] | None:
    try:
        return _times(span)
    except ValueError:
        raise RecordError(name, field, span, "start and end in seconds") from None


def _matches(folder: Path, pattern: str) -> bool:
    return next(glob.iglob(os.path.join(glob.escape(str(folder)), pattern), recursive=True), None) is not None
