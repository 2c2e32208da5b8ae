"""One record: a clip of sound, its captions, and where all of it comes from. The row of every corpus shard."""

import dataclasses
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Audio, Features, Value

SCHEMA_VERSION = 1
SCHEMA_KEY = b"hf_slap.schema_version"  # in the metadata of every parquet file
PROVENANCES = ("human", "machine", "template")
DOMAINS = ("sound", "music", "speech", "mixed")
SPLITS = ("train", "validation", "test")

FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "source_id": Value("string"),
        "segment": {"start": Value("float64"), "end": Value("float64")},
        "audio": Audio(decode=False),
        "duration": Value("float64"),
        "sampling_rate": Value("int32"),
        "captions": [
            {
                "text": Value("string"),
                "style": Value("string"),
                "provenance": Value("string"),
                "model": Value("string"),
                "source": Value("string"),
            }
        ],
        "labels": [Value("string")],
        "domain": Value("string"),
        "language": Value("string"),
        "license": Value("string"),
        "redistributable": Value("bool"),
        "split": Value("string"),
    }
)

_SOURCE = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SOURCE_ID = re.compile(r"[a-z0-9][a-z0-9_.-]*:\S.*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*")


class RecordError(ValueError):
    """A record that breaks the schema. `record` is its id, `field` the field that is wrong."""

    def __init__(self, record: str, field: str, came: Any, accepted: str):
        super().__init__(f"record {record!r}: {field} is {came!r}; accepted is {accepted}")
        self.record, self.field = record, field

    def __reduce__(self):  # travels between processes as its message
        return _rebuild, (str(self), self.record, self.field)


def _rebuild(message: str, record: str, field: str) -> RecordError:
    problem = RecordError.__new__(RecordError)
    ValueError.__init__(problem, message)
    problem.record, problem.field = record, field
    return problem


@dataclasses.dataclass(frozen=True)
class Caption:
    """A text about a clip.

    Args:
        text: as people read it.
        style: what kind of text, in the source's own words ("short", "long", "tags", ...); "" where there is one kind.
        provenance: "human", "machine" (then `model` says which, "unknown" where the source does not) or "template"
            (made from labels).
        model: of a machine's caption; None otherwise.
        source: recipe the caption comes from; "" is the record's own. Merging fills it in.
    """

    text: str
    style: str = ""
    provenance: str = "human"
    model: str | None = None
    source: str = ""


@dataclasses.dataclass
class Record:
    """A clip and its captions.

    Args:
        id: unique in a corpus; recipes give "<source>/<their own id>".
        source: name of the recipe.
        source_id: which recording it is, written alike by all sources that contain it: "youtube:<11 characters>",
            "freesound:<number>", "package:<name>/<file>", "<source>:<their own id>" where nobody else has it.
        audio: {"bytes", "path"}: the bytes of a sound file and its name, or bytes None and the path of a file.
        captions: at least one.
        license: of the clip, SPDX where there is an id ("CC-BY-4.0"), "unknown" where nothing is stated.
        redistributable: whether the licence lets the sound be given away.
        domain: one of `DOMAINS`.
        split: one of `SPLITS`, as its source has it.
        language: of the captions, BCP 47.
        labels: classes the source gives, may be empty.
        segment: {"start", "end"} in seconds: which part of the recording `source_id` the clip is; None is all of it, or
            not known.
        duration: seconds. None until preparing has read it.
        sampling_rate: of `audio`, Hz. None until preparing has read it.
        cut: (start, end) in seconds of the file in `audio`: preparing cuts this out; None: the file is the clip. Not
            stored.
    """

    id: str
    source: str
    source_id: str
    audio: dict
    captions: list[Caption]
    license: str
    redistributable: bool
    domain: str
    split: str = "train"
    language: str = "en"
    labels: list[str] = dataclasses.field(default_factory=list)
    segment: dict | None = None
    duration: float | None = None
    sampling_rate: int | None = None
    cut: tuple[float, float] | None = None

    def to_row(self) -> dict:
        """The record as plain values, in the order of `FEATURES`."""
        captions = [dict(vars(caption)) for caption in self.captions]
        return {name: captions if name == "captions" else getattr(self, name) for name in FEATURES}

    @classmethod
    def from_row(cls, row: Mapping) -> "Record":
        """The record of a row; columns that are not the schema's are refused.

        Raises:
            RecordError: missing or unknown columns.
        """
        name = str(row.get("id"))
        if set(row) != set(FEATURES):
            raise RecordError(name, "columns", sorted(row), f"{sorted(FEATURES)} (schema version {SCHEMA_VERSION})")
        try:
            captions = [Caption(**caption) for caption in row["captions"]]
        except TypeError:
            fields = [field.name for field in dataclasses.fields(Caption)]
            raise RecordError(name, "captions", row["captions"], f"a list of {fields}") from None
        segment = row["segment"]
        if segment == {"start": None, "end": None}:
            segment = None  # what some readers make of a null struct
        return cls(**{**row, "captions": captions, "segment": segment})


def validate(record: Record, prepared: bool = True) -> Record:
    """The record itself, if it keeps the schema.

    Args:
        record: to check. No sound is decoded.
        prepared: its duration and sampling rate must be known, as in a shard; False for what recipes yield.
    Raises:
        RecordError: names the record, the field, what came and what is accepted.
    """

    def check(field: str, fine: bool, accepted: str, came: Any = None):
        if not fine:
            raise RecordError(str(record.id), field, getattr(record, field) if came is None else came, accepted)

    check("id", _is_text(record.id), "a text that is not empty")
    check("source", _matches(_SOURCE, record.source), "a recipe's name: a-z, 0-9, '_', '-', '.'")
    check("source_id", _matches(_SOURCE_ID, record.source_id), "'<origin>:<id>', such as 'freesound:1234'")
    _check_audio(record, check)
    check("duration", _is_positive(record.duration) or (record.duration is None and not prepared), "seconds above 0")
    rate = record.sampling_rate
    known = isinstance(rate, int) and not isinstance(rate, bool) and rate > 0
    check("sampling_rate", known or (rate is None and not prepared), "a whole number of Hz above 0")
    if record.segment is not None:
        both = isinstance(record.segment, dict) and set(record.segment) == {"start", "end"}
        _check_span(check, "segment", (record.segment["start"], record.segment["end"]) if both else ())
    if record.cut is not None:
        check("cut", not prepared, "None once the clip has been cut")
        _check_span(check, "cut", record.cut)
    check("captions", isinstance(record.captions, list) and bool(record.captions), "a list of at least one Caption")
    for number, caption in enumerate(record.captions):
        _check_caption(check, f"captions[{number}]", caption)
    labels = record.labels
    check("labels", isinstance(labels, list) and all(map(_is_text, labels)), "a list of texts, may be empty")
    check("domain", record.domain in DOMAINS, f"one of {DOMAINS}")
    check("language", _matches(_LANGUAGE, record.language), "a BCP 47 tag such as 'en', 'und' where unknown")
    check("license", _is_text(record.license), "an SPDX id or another name, 'unknown' where none is stated")
    check("redistributable", isinstance(record.redistributable, bool), "True or False")
    check("split", record.split in SPLITS, f"one of {SPLITS}")
    return record


def stable_hash(text: str) -> int:
    """A signed 64-bit number that is the same in every process, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def repeated(names: Callable[[], Iterable[str]]) -> set[str]:
    """Names that come more than once. Takes 8 bytes of memory per name.

    Args:
        names: gives all of them; called a second time when two may be equal.
    """
    hashes = np.fromiter(map(stable_hash, names()), np.int64)
    hashes.sort()
    twice = set(np.unique(hashes[1:][hashes[1:] == hashes[:-1]]).tolist())
    counts = Counter(name for name in (names() if twice else ()) if stable_hash(name) in twice)
    return {name for name, count in counts.items() if count > 1}


def arrow_schema() -> pa.Schema:
    """The schema of a shard, with its version and with the features that `datasets` reads back."""
    schema = FEATURES.arrow_schema
    return schema.with_metadata({**(schema.metadata or {}), SCHEMA_KEY: str(SCHEMA_VERSION).encode()})


def check_schema(schema: pa.Schema, where: str) -> None:
    """Refuses a file of another schema.

    Raises:
        ValueError: no version, another version, or other columns or types; names the file.
    """
    version = (schema.metadata or {}).get(SCHEMA_KEY)
    if version is None:
        raise ValueError(
            f"{where} carries no schema version: it is no shard of records; make one with hf_slap.data.prepare, or "
            "open it with load_corpus"
        )
    if version != str(SCHEMA_VERSION).encode():
        raise ValueError(
            f"{where} has schema version {version.decode()}; this release reads version {SCHEMA_VERSION}: prepare the "
            "corpus again, or install the release that wrote it"
        )
    if not schema.remove_metadata().equals(arrow_schema().remove_metadata()):
        raise ValueError(f"{where} has columns {schema.names} of other types than schema version {SCHEMA_VERSION}")


def _check_audio(record: Record, check) -> None:
    audio = record.audio
    if not isinstance(audio, dict) or set(audio) != {"bytes", "path"}:
        check("audio", False, "{'bytes', 'path'}")
    content, path = audio["bytes"], audio["path"]
    came = {"bytes": type(content).__name__, "path": path}  # not the sound itself
    check("audio", content is None or (isinstance(content, bytes) and bool(content)), "bytes, not empty, or None", came)
    check("audio", path is None or _is_text(path), "a path or None", came)
    check("audio", content is not None or path is not None, "bytes, a path, or both", came)


def _check_span(check, field: str, span: tuple) -> None:
    fine = isinstance(span, tuple | list) and len(span) == 2 and all(map(_is_number, span))
    check(field, fine and 0 <= span[0] < span[1] < math.inf, "start and end in seconds, 0 <= start < end, or None")


def _check_caption(check, field: str, caption: Caption) -> None:
    if not isinstance(caption, Caption):
        check("captions", False, "a list of Caption", [caption])
    text = f"{field}.text"
    check(text, _is_text(caption.text), "a text that is not empty", caption.text or "")
    check(f"{field}.style", isinstance(caption.style, str), "a text, '' for the only style", repr(caption.style))
    check(f"{field}.provenance", caption.provenance in PROVENANCES, f"one of {PROVENANCES}", repr(caption.provenance))
    named = _is_text(caption.model) if caption.provenance == "machine" else caption.model is None
    check(f"{field}.model", named, "the model's name where a machine wrote it, else None", repr(caption.model))
    source = caption.source == "" or _matches(_SOURCE, caption.source)
    check(f"{field}.source", source, "a recipe's name, or ''", repr(caption.source))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _matches(pattern: re.Pattern, value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf
