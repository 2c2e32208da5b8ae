"""What is in a corpus, counted in one pass: JSON, markdown and plots, as they go to the Hub beside its shards."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np

from ..files import write_whole
from .records import FEATURES
from .shards import read_manifest, read_rows
from .text_rules import same_text_key

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_BATCH = 4096  # rows held at once
_HELD = 1_000_000  # hashes held before they are reduced to the distinct ones
_MOST_LISTED = 20
_PERCENTILES = (0, 5, 25, 50, 75, 95, 100)
_REPORTS = ("merging", "leakage")
_COLOUR, _SECOND_COLOUR = "#3366aa", "#aa5533"


def write_datasheet(folder: str | Path, reports: str | Path | None = None) -> Path:
    """Writes datasheet/datasheet.md, datasheet.json and their plots into a corpus.

    No sound is read; memory holds the vocabulary and eight bytes for each distinct caption and pair of words.

    Args:
        folder: of a finished corpus.
        reports: folder of the reports of merging and leakage, which are taken in.
    Returns:
        The path of datasheet.md.
    Raises:
        FileNotFoundError, ValueError: see `read_manifest`.
        ImportError: matplotlib is missing (extra "train").
    """
    folder = Path(folder)
    read_manifest(folder)
    columns = [name for name in FEATURES if name != "audio"]
    facts, curves = _count(read_rows(folder, columns, batch=_BATCH))
    out = folder / "datasheet"
    out.mkdir(exist_ok=True)
    lines = _markdown(facts)
    for name in _REPORTS if reports else ():
        if (Path(reports) / f"{name}.json").is_file():
            facts[name] = json.loads((Path(reports) / f"{name}.json").read_text(encoding="utf-8"))
            lines += ["", (Path(reports) / f"{name}.md").read_text(encoding="utf-8").rstrip()]
    _plot_sound(out / "sound.png", facts, curves)
    _plot_captions(out / "captions.png", facts, curves)
    write_whole(out / "datasheet.json", lambda file: file.write(json.dumps(facts, indent=1).encode()))
    write_whole(out / "datasheet.md", lambda file: file.write(("\n".join(lines) + "\n").encode()))
    return out / "datasheet.md"


class _Distinct:
    """Counts different things by their 64-bit hashes."""

    def __init__(self):
        self.total, self._kept, self._new = 0, np.zeros(0, np.int64), []

    def add(self, things: Iterable) -> None:
        hashes = [hash(thing) for thing in things]
        self.total += len(hashes)
        self._new += hashes
        if len(self._new) > _HELD:
            self._reduce()

    def _reduce(self) -> None:
        self._kept = np.union1d(self._kept, np.array(self._new, np.int64))
        self._new = []

    def __len__(self) -> int:
        self._reduce()
        return len(self._kept)

    def share(self) -> float | None:
        return len(self) / self.total if self.total else None


def _count(rows: Iterator[Mapping]) -> tuple[dict, dict]:
    """The facts, and the distributions that are drawn: {"durations", "lengths", "per clip": Counter}."""
    words, pairs, texts, recordings = Counter(), _Distinct(), _Distinct(), _Distinct()
    durations, per_clip, labels = Counter(), Counter(), Counter()  # durations in milliseconds
    lengths = defaultdict(Counter)  # provenance -> words of a caption
    by = {name: defaultdict(_Amount) for name in ("source", "domain", "language", "license", "split", "sampling_rate")}
    captions = {name: Counter() for name in ("provenance", "style", "model", "source")}
    redistributable, everything = _Amount(), _Amount()
    shared = Counter()
    for row in rows:
        amount = (row["duration"], len(row["captions"]))
        everything.add(*amount)
        for name, groups in by.items():
            groups[row[name]].add(*amount)
        if row["redistributable"]:
            redistributable.add(*amount)
        durations[round(1000 * row["duration"])] += 1
        per_clip[len(row["captions"])] += 1
        labels.update(row["labels"])
        recordings.add([row["source_id"]])
        for caption in row["captions"]:
            source = caption["source"] or row["source"]
            for name, value in (("source", source), ("provenance", caption["provenance"])):
                captions[name][value] += 1
            captions["style"][caption["style"] or "(one style)"] += 1
            if caption["model"]:
                captions["model"][caption["model"]] += 1
            said = _WORD.findall(caption["text"].lower())
            words.update(said)
            pairs.add(pairwise(said))
            texts.add([same_text_key(caption["text"])])
            lengths[caption["provenance"]][len(said)] += 1
        sources = sorted({caption["source"] or row["source"] for caption in row["captions"]} | {row["source"]})
        shared.update(combinations(sources, 2))
    all_lengths = sum(lengths.values(), Counter())
    total_words = sum(words.values())
    facts = {
        **everything.facts(),
        "redistributable": redistributable.facts(),
        "recordings": len(recordings),
        "vocabulary": len(words),
        "words": total_words,
        "distinct_1": len(words) / total_words if total_words else None,
        "distinct_2": pairs.share(),
        "distinct captions": len(texts),
        "caption_words": _percentiles(all_lengths),
        "captions_per_clip": _percentiles(per_clip),
        "duration_seconds": _percentiles(durations, 0.001),
        **{name: {str(key): one.facts() for key, one in _by_clips(groups)} for name, groups in by.items()},
        "captions_by": {name: dict(counted.most_common()) for name, counted in captions.items()},
        "clips that sources share": {" + ".join(pair): number for pair, number in shared.most_common()},
        "labels": len(labels),
        "most frequent labels": dict(labels.most_common(_MOST_LISTED)),
        "most frequent words": dict(words.most_common(_MOST_LISTED)),
    }
    ranks = sorted(words.values(), reverse=True)
    return facts, {"durations": durations, "lengths": lengths, "per clip": per_clip, "words": ranks}


class _Amount:
    """Clips, seconds and captions of a group."""

    def __init__(self):
        self.clips, self.seconds, self.captions = 0, 0.0, 0

    def add(self, seconds: float, captions: int) -> None:
        self.clips, self.seconds, self.captions = self.clips + 1, self.seconds + seconds, self.captions + captions

    def facts(self) -> dict:
        return {"clips": self.clips, "captions": self.captions, "hours": round(self.seconds / 3600, 4)}


def _by_clips(groups: Mapping) -> list[tuple]:
    return sorted(groups.items(), key=lambda item: (-item[1].clips, str(item[0])))


def _percentiles(counted: Counter, unit: float = 1.0) -> dict[str, float]:
    values = sorted(counted)
    if not values:
        return {}
    reached = np.cumsum([counted[value] for value in values])
    places = [
        min(int(np.searchsorted(reached, percent / 100 * reached[-1])), len(values) - 1) for percent in _PERCENTILES
    ]
    mean = sum(value * number for value, number in counted.items()) / reached[-1]
    facts = {f"{percent} %": values[place] * unit for percent, place in zip(_PERCENTILES, places, strict=True)}
    return {"mean": round(float(mean) * unit, 4)} | {name: round(value, 4) for name, value in facts.items()}


def _markdown(facts: dict) -> list[str]:
    given = facts["redistributable"]
    lines = ["## Datasheet", "", "![Durations, sources and domains](sound.png)", ""]
    lines += ["![Captions: length, number, words](captions.png)", "", "| | |", "|---|---|"]
    rows = [
        ("clips", f"{facts['clips']:,} of {facts['recordings']:,} recordings"),
        ("sound", f"{facts['hours']:,.2f} hours"),
        ("may be given away", f"{given['clips']:,} clips, {given['hours']:,.2f} hours"),
        ("captions", f"{facts['captions']:,}, {facts['distinct captions']:,} of them distinct"),
        ("vocabulary", f"{facts['vocabulary']:,} words of {facts['words']:,}"),
        ("Distinct-1, Distinct-2", ", ".join(_number(facts[name]) for name in ("distinct_1", "distinct_2"))),
        ("labels", f"{facts['labels']:,}: {', '.join(facts['most frequent labels']) or 'none'}"),
        ("most frequent words", ", ".join(facts["most frequent words"])),
    ]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows]
    heads = ["mean", *(f"{percent} %" for percent in _PERCENTILES)]
    lines += ["", f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for title, name in (
        ("seconds of a clip", "duration_seconds"),
        ("words of a caption", "caption_words"),
        ("captions of a clip", "captions_per_clip"),
    ):
        lines.append(f"| {title} | {' | '.join(_number(facts[name].get(head)) for head in heads)} |")
    for name in ("source", "domain", "language", "license", "split", "sampling_rate"):
        lines += ["", f"| {name.replace('_', ' ')} | clips | captions | hours |", "|---|---|---|---|"]
        for key, one in facts[name].items():
            lines.append(f"| {_cell(key)} | {one['clips']:,} | {one['captions']:,} | {one['hours']:,.2f} |")
    for name, counted in facts["captions_by"].items():
        if counted:
            lines += ["", f"| captions by {name} | |", "|---|---|"]
            lines += [f"| {_cell(key)} | {number:,} |" for key, number in list(counted.items())[:_MOST_LISTED]]
    lines += ["", "| sources that describe the same clips | clips |", "|---|---|"]
    overlap = list(facts["clips that sources share"].items())[:_MOST_LISTED]
    return lines + [f"| {pair} | {number:,} |" for pair, number in overlap or [("none", 0)]]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _figure(width: float, panels: int):
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as problem:
        raise ImportError("the plots of a datasheet need matplotlib: pip install 'hf_slap[train]'") from problem
    figure = Figure(figsize=(width, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plot_sound(path: Path, facts: dict, curves: dict) -> None:
    figure, (left, middle, right) = _figure(13, 3)
    seconds = np.array(sorted(curves["durations"])) / 1000
    clips = [curves["durations"][value] for value in sorted(curves["durations"])]
    if len(seconds):
        low, high = max(seconds[0], 0.01) * 0.99, max(seconds[-1], 0.02) * 1.01
        bins = np.geomspace(low, high, 40)
        left.hist(np.clip(seconds, low, high), bins=bins, weights=clips, color=_COLOUR)
        left.set_xscale("log")
        left.xaxis.set_major_formatter("{x:g}")
        left.xaxis.set_minor_formatter("")
    left.set(xlabel="seconds", ylabel="clips", title="Durations")
    for axis, name in ((middle, "source"), (right, "domain")):
        groups = sorted(facts[name].items(), key=lambda item: item[1]["hours"])[-12:]
        bars = axis.barh([key for key, _ in groups], [one["hours"] for _, one in groups], color=_COLOUR)
        axis.bar_label(bars, labels=[f"{one['clips']:,} clips" for _, one in groups], padding=3, fontsize=8)
        axis.margins(x=0.3)
        axis.set(xlabel="hours", title=f"Hours by {name}")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _plot_captions(path: Path, facts: dict, curves: dict) -> None:
    figure, (left, middle, right) = _figure(13, 3)
    colours = {"human": _COLOUR, "machine": _SECOND_COLOUR, "template": "#338855"}
    longest = min(max((max(one) for one in curves["lengths"].values()), default=1), 100)
    bins = np.arange(0, longest + 2, max(1, longest // 40)) - 0.5
    for provenance, counted in sorted(curves["lengths"].items()):
        lengths = np.minimum(list(counted), longest)
        left.hist(
            lengths,
            bins=bins,
            weights=list(counted.values()),
            label=provenance,
            color=colours[provenance],
            alpha=0.7,
        )
    if curves["lengths"]:
        left.legend(frameon=False)
    left.set(
        xlabel="words" + (" (100: and more)" if longest == 100 else ""), ylabel="captions", title="Caption lengths"
    )
    numbers = sorted(curves["per clip"])
    middle.bar(
        [str(number) for number in numbers][:15], [curves["per clip"][one] for one in numbers][:15], color=_COLOUR
    )
    middle.set(xlabel="captions", ylabel="clips", title="Captions of a clip")
    right.loglog(np.arange(1, len(curves["words"]) + 1), curves["words"], color=_COLOUR)
    right.set(xlabel="rank of a word", ylabel="times used", title=f"{facts['vocabulary']:,} words")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))
