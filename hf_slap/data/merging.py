"""Many prepared corpora to one: captions of the same clip are joined, its best sound is kept, and a report says why.

Two clips are the same when (`source_id`) they are the same part of the same recording, when (`exact`) their samples
are equal, or when (`fingerprint`) they share most of their sound. That is transitive: clips are joined in groups.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_whole
from .corpora_index import CorporaIndex, map_jobs
from .fingerprint import MERGE_EVIDENCE, FingerprintIndex, Match, evidence, is_audible
from .records import FEATURES, Caption, Record, validate
from .shards import read_rows
from .text_rules import CHANGES, REFUSALS, clean_text, same_text_key

SAME_PART = 0.8  # what two clips share, as a part of the longer one, from which on their captions describe the same
SAME_SEGMENT = 0.5  # the same for segments of one recording, whose captions are about neighbouring sound in any case
_PROVENANCE_ORDER = ("human", "machine", "template")
_SPLIT_ORDER = ("test", "validation", "train")
_SEARCHED_AT_ONCE = 2000
_MERGES = pa.schema(
    [
        *((name, pa.string()) for name in ("kept", "joined", "source", "why")),
        *((name, pa.float64()) for name in ("signature", "correlation", "overlap")),
    ]
)


def find_copies(corpora: CorporaIndex, workers: int = 1) -> Iterator[tuple[int, int, str, Match | None, float | None]]:
    """Pairs of clips that are the same, as (clip, later clip, why, match, correlation of the waveforms)."""
    yield from ((one, other, "source_id", None, None) for one, other in _same_source(corpora))
    yield from ((one, other, "exact", None, None) for one, other in _exact(corpora.prints))
    starts = range(0, len(corpora), _SEARCHED_AT_ONCE)
    for found in map_jobs(_near, [(corpora, start) for start in starts], workers):
        yield from found


def merge_corpora(
    corpora: CorporaIndex, report: str | Path, leaks: Collection[int] = (), workers: int = 1
) -> Iterator[Record]:
    """The records of all corpora, each clip once, with all its captions, cleaned.

    Of a group of copies the sound with the highest sampling rate is kept, among those the longest, among those one
    that may be given away, then the first: nothing that a copy lost comes back, and a longer clip holds the shorter.
    Its facts stay those of the record; labels are united; where languages or domains differ the record says "mul" and
    "mixed"; a group with a clip of a test or validation split belongs to that split as a whole, so that nothing is
    trained on what is held out. Captions that differ in case and punctuation only are one, the one of the most direct
    provenance (human, machine, template). A record whose captions are all refused is dropped.

    Memory: the facts of `CorporaIndex` and the texts of the groups; sound passes through one record at a time.

    Args:
        corpora: made by `index_corpora`.
        report: folder of merging.parquet (a row for each joined clip), merging.json and merging.md, written at the end.
        leaks: clips to leave out, as `find_leaks` gives them, with all their copies.
        workers: processes that search for copies.
    Yields:
        Records in the order of the corpora.
    """
    report = Path(report)
    report.mkdir(parents=True, exist_ok=True)
    counts, texts, merges = Counter(clips=len(corpora)), Counter(), []
    parents = np.arange(len(corpora))
    for one, other, why, match, correlation in find_copies(corpora, workers):
        first, second = _root(parents, one), _root(parents, other)
        counts[f"pairs by {why}"] += 1
        if first != second:
            parents[max(first, second)] = min(first, second)
            counts[f"joined by {why}"] += 1
        merges.append((one, other, why, match, correlation))

    groups = defaultdict(list)
    for clip in range(len(parents)):
        parents[clip] = _root(parents, clip)
        if parents[clip] != clip:
            groups[int(parents[clip])].append(clip)
    for root, others in groups.items():
        others.insert(0, root)
    leaked = {int(parents[clip]) for clip in leaks}
    kept = {root: min(group, key=lambda clip: _preference(corpora, clip)) for root, group in groups.items()}
    companions = _read_companions(corpora, {clip for group in groups.values() for clip in group})

    for clip, row in enumerate(_rows(corpora)):
        root = int(parents[clip])
        if root in leaked:
            counts["left out as leaks"] += 1
            continue
        if kept.get(root, clip) != clip:
            continue
        record = _join(Record.from_row(row), [companions[other] for other in groups.get(root, [])], texts)
        if not record.captions:
            counts["without a usable caption"] += 1
            continue
        counts["records"] += 1
        counts["captions"] += len(record.captions)
        yield validate(record)

    names = corpora.facts["id"]
    rows = [
        {
            "kept": names[kept[int(parents[one])]].as_py(),
            "joined": names[other if kept[int(parents[one])] != other else one].as_py(),
            "source": corpora.facts["source"][other].as_py(),
            "why": why,
            "signature": match and match.signature,
            "correlation": correlation,
            "overlap": match and match.overlap,
        }
        for one, other, why, match, correlation in merges
    ]
    _write_report(report, rows, counts, texts)


def _join(record: Record, companions: Sequence[Record], texts: Counter) -> Record:
    """The record with the captions and labels of its copies, itself among them."""
    companions = [one for one in companions if one.id != record.id]
    captions: dict[str, Caption] = {}
    for member in (record, *companions):
        for caption in member.captions:
            texts["captions read"] += 1
            text = clean_text(caption.text, texts)
            if text is None:
                continue
            caption = replace(caption, text=text, source=caption.source or member.source)
            key = same_text_key(text)
            if key in captions:
                texts["the same caption again"] += 1
                caption = min(captions[key], caption, key=lambda one: _PROVENANCE_ORDER.index(one.provenance))
            captions[key] = caption
    everyone = (record, *companions)
    return replace(
        record,
        captions=list(captions.values()),
        labels=list(dict.fromkeys(label for one in everyone for label in one.labels)),
        language=_agreed([one.language for one in everyone], "mul"),
        domain=_agreed([one.domain for one in everyone], "mixed"),
        split=min((one.split for one in everyone), key=_SPLIT_ORDER.index),
    )


def _agreed(values: Iterable[str], otherwise: str) -> str:
    values = set(values)
    return values.pop() if len(values) == 1 else otherwise


def _preference(corpora: CorporaIndex, clip: int) -> tuple:
    """Smallest for the sound that is kept."""
    fact = corpora.fact(clip)
    return -fact["sampling_rate"], -fact["duration"], not fact["redistributable"], clip


def _rows(corpora: CorporaIndex, columns: Sequence[str] | None = None) -> Iterator[dict]:
    for folder in corpora.folders:
        yield from read_rows(folder, columns)


def _read_companions(corpora: CorporaIndex, wanted: set[int]) -> dict[int, Record]:
    """Records of some clips, without their sound."""
    columns = [name for name in FEATURES if name != "audio"]
    rows = enumerate(_rows(corpora, columns)) if wanted else ()
    return {clip: Record.from_row({**row, "audio": None}) for clip, row in rows if clip in wanted}


def _root(parents: np.ndarray, clip: int) -> int:
    while parents[clip] != clip:
        parents[clip] = parents[parents[clip]]
        clip = int(parents[clip])
    return clip


def _same_source(corpora: CorporaIndex) -> Iterator[tuple[int, int]]:
    """Pairs with one source id whose segments are the same part of it.

    A clip that does not say its segment joins one of about its duration, where its own source has no other clip of that
    recording (those are other parts of it) and only one segment comes into question; the rest is the fingerprint's.
    """
    ids, sources = corpora.column("source_id"), corpora.column("source")
    start, end, duration = (corpora.column(name).astype(np.float64) for name in ("start", "end", "duration"))
    order = np.argsort(ids, kind="stable")
    for group in np.split(order, np.flatnonzero(ids[order][1:] != ids[order][:-1]) + 1):
        if len(group) < 2:
            continue
        known = [clip for clip in group if not np.isnan(start[clip])]
        known.sort(key=lambda clip: start[clip])
        for place, one in enumerate(known):
            for other in known[place + 1 :]:
                if start[other] >= end[one]:
                    break
                shared = min(end[one], end[other]) - start[other]
                if shared >= SAME_SEGMENT * max(end[one] - start[one], end[other] - start[other]):
                    yield min(one, other), max(one, other)
        alone = Counter(sources[group])
        unknown = [clip for clip in group if np.isnan(start[clip]) and alone[sources[clip]] == 1]
        for other in unknown:
            alike = [one for one in [*known, *unknown] if _ratio(duration[one], duration[other]) >= SAME_PART]
            if len({start[one] for one in alike if not np.isnan(start[one])}) <= 1:
                yield from ((min(one, other), max(one, other)) for one in alike if one != other)


def _ratio(one: float, other: float) -> float:
    return min(one, other) / max(one, other)


def _exact(prints: FingerprintIndex) -> Iterator[tuple[int, int]]:
    for clips in prints.same_digest():
        if is_audible(prints.fingerprint(clips[0]).frames):
            yield from ((clips[0], other) for other in clips[1:])


def _near(corpora: CorporaIndex, start: int) -> list[tuple[int, int, str, Match, float]]:
    """The near copies of some clips among those behind them."""
    found, prints, durations = [], corpora.prints, corpora.facts["duration"]
    for clip in range(start, min(start + _SEARCHED_AT_ONCE, len(corpora))):
        waveform = None
        for match in prints.search(prints.fingerprint(clip), after=clip):
            longer = max(durations[clip].as_py(), durations[match.clip].as_py())
            if match.overlap < SAME_PART * longer or prints.digests[clip] == prints.digests[match.clip]:
                continue  # a part only, or said already
            waveform = corpora.waveform(clip) if waveform is None else waveform
            correlation = corpora.correlate(waveform, match)
            if evidence(match.signature, correlation) >= MERGE_EVIDENCE:
                found.append((clip, match.clip, "fingerprint", match, correlation))
    return found


def _write_report(report: Path, rows: list[dict], counts: Counter, texts: Counter) -> None:
    write_whole(report / "merging.parquet", lambda file: pq.write_table(pa.Table.from_pylist(rows, _MERGES), file))
    facts = {"clips": dict(counts), "captions": {"rules": [*CHANGES, *REFUSALS], **texts}}
    write_whole(report / "merging.json", lambda file: file.write(json.dumps(facts, indent=1).encode()))
    lines = ["## What was merged", "", "| | clips |", "|---|---|"]
    lines += [f"| {name} | {number:,} |" for name, number in counts.items()]
    lines += ["", "| text rule | times |", "|---|---|"]
    lines += [
        f"| {name} | {texts[name]:,} |" for name in ("captions read", *CHANGES, *REFUSALS, "the same caption again")
    ]
    write_whole(report / "merging.md", lambda file: file.write(("\n".join(lines) + "\n").encode()))
