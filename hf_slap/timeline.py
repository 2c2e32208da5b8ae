"""What happens when in a recording of any length: where labels are heard, or what can be said of each stretch of it.

from hf_slap.timeline import timeline
found = timeline("runs/tiny/model", None, "clip.wav", ["a dog", "rain"])
found.segments; found.save("clip.vtt"); found.save("clip.png")
"""

import csv
import html
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .listening import open_listener
from .moments import seconds_per_moment, stream_moments
from .presence import TEMPLATE

THRESHOLD = 0.5
SILENCE_DECIBELS = -60.0  # quieter moments are silence, whatever the model says of them
LABEL_SECONDS = 0.5  # shortest segment of a label, and the longest gap inside one
STRETCH_SECONDS = 3.0  # shortest stretch that gets a caption of its own
PAUSE_SECONDS = 1.0  # silence that does not part what is before and behind it
CHANGE = 0.2  # 1 - cosine; 72 % of the joints of two held-out clips have more, and 10 % of the places in one
COMPARED_SECONDS = 1.5  # of sound before and behind a moment whose difference is how much changes there
SPECTROGRAM_COLUMNS = 1600
CAPTIONS_AT_ONCE = 8


class Segment(NamedTuple):
    """A stretch of a recording.

    Args:
        start, end: in seconds.
        label: a label, or a caption.
        score: of the label, mean over the segment, 0 to 1; None for captions.
    """

    start: float
    end: float
    label: str
    score: float | None = None


@dataclass
class Timeline:
    """What `timeline` returns.

    Args:
        name: of the recording.
        seconds: its duration.
        segments: in the order of their starts.
        labels: asked for; empty when captions were written.
        scores: (T, C) float16, of each moment and label, 0 at silence.
        seconds_per_moment: from one moment to the next.
        threshold: from which a label counts as heard.
        decibels: (T,) float16, level of each moment, see `Moments`.
        spectrogram: (columns, M) float32, log-mel in few columns over the whole duration, for pictures.
        mel_hz: (M,), middle of each of its bins.
    """

    name: str
    seconds: float
    segments: list[Segment]
    labels: list[str]
    scores: np.ndarray = field(repr=False)
    seconds_per_moment: float
    threshold: float
    decibels: np.ndarray = field(repr=False)
    spectrogram: np.ndarray = field(repr=False)
    mel_hz: np.ndarray = field(repr=False)

    def to_audacity(self) -> str:
        """A label file: File > Import > Labels in Audacity."""
        return "".join(f"{one.start:.6f}\t{one.end:.6f}\t{_one_line(one.label)}\n" for one in self.segments)

    def to_webvtt(self) -> str:
        """WebVTT: subtitles for players and browsers."""
        cues = (
            f"\n{number}\n{_clock(one.start)} --> {_clock(one.end)}\n{html.escape(_one_line(one.label), quote=False)}\n"
            for number, one in enumerate(self.segments, 1)
        )
        return "WEBVTT\n" + "".join(cues)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON; `scores` and pictures are left out."""
        return {
            "name": self.name,
            "seconds": round(self.seconds, 3),
            **({"labels": self.labels, "threshold": self.threshold} if self.labels else {}),
            "segments": [_rounded(one) for one in self.segments],
        }

    def to_json(self) -> str:
        """`to_dict`, indented."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A row for each segment: start, end, label and, of labels, score."""
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        columns = Segment._fields[: 4 if self.labels else 3]
        table.writerow(columns)
        table.writerows([_rounded(one)[name] for name in columns] for one in self.segments)
        return file.getvalue()

    def save(self, path: str | os.PathLike) -> Path:
        """Writes what the suffix says: .txt (Audacity), .vtt, .json, .csv, or a picture (.png, .svg, .pdf, .jpg).

        Raises:
            ValueError: another suffix.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in PICTURES:
            from .timeline_picture import draw_timeline

            return draw_timeline(self, path)
        if suffix not in TEXTS:
            raise ValueError(f"{str(path)!r}: accepted suffixes are {', '.join(SUFFIXES)}")
        path.write_text(TEXTS[suffix](self), encoding="utf-8")
        return path


TEXTS: dict[str, Callable[[Timeline], str]] = {
    ".txt": Timeline.to_audacity,
    ".vtt": Timeline.to_webvtt,
    ".json": Timeline.to_json,
    ".csv": Timeline.to_csv,
}
PICTURES = (".png", ".svg", ".pdf", ".jpg")
SUFFIXES = (*TEXTS, *PICTURES)  # of files that a timeline is saved as


def timeline(
    model: Any,
    processor: Any,
    audio: Any,
    labels: Sequence[str] | None = None,
    *,
    threshold: float = THRESHOLD,
    multi_label: bool = True,
    template: str | Sequence[str] = TEMPLATE,
    min_seconds: float | None = None,
    silence_decibels: float = SILENCE_DECIBELS,
    sampling_rate: int | None = None,
    resample: bool = False,
    name: str | None = None,
    batch_seconds: float | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Timeline:
    """Where labels are heard in a recording, or, without labels, a caption for each stretch that sounds alike.

    Memory does not grow with the recording but for one number per label and 0.16 s (45 kB per label and hour).

    Args:
        model: a folder or Hub id, a `SlapModel`, or a `Listener`; None: the model that comes with this package.
        processor: of a `SlapModel`; None otherwise.
        audio: as `SlapFeatureExtractor.load` takes it; a file is decoded in blocks, and for captions twice.
        labels: texts.
        threshold: score from which a label counts as heard, 0 to 1.
        multi_label: True: each label is heard or not, whatever the others are. False: labels compete.
        template: makes a text of a label; several are an ensemble.
        min_seconds: shortest segment; default: 0.5 for labels, whose gaps are bridged up to that length too, and 3 for
            captions. At most half of what the model was trained on for captions.
        silence_decibels: moments below this level are silence, see `Moments`.
        sampling_rate, resample: for arrays, as in `SlapFeatureExtractor.load`.
        name: of the recording; default: the path.
        batch_seconds: see `stream_moments`.
        progress: called with what is done ("listening", "writing captions") and the seconds of sound behind it.
    Raises:
        AudioError: the recording cannot be read.
        ValueError: labels or settings out of range; a model without SLAP's audio encoder or, for captions, without a
            caption decoder.
    """
    listener = open_listener(model, processor)
    base, extractor = listener.model, listener.processor.feature_extractor
    step, longest = seconds_per_moment(base), base.audio_model.config.max_audio_seconds
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold!r} must lie between 0 and 1")
    least = (
        (min(STRETCH_SECONDS, longest / 2) if labels is None else LABEL_SECONDS) if min_seconds is None else min_seconds
    )
    if not 0 <= least <= (longest / 2 if labels is None else math.inf):
        most = f" and at most {longest / 2:g} for captions" if labels is None else ""
        raise ValueError(f"min_seconds={min_seconds!r} must be a number of seconds, 0 or more{most}")
    is_path = isinstance(audio, str | os.PathLike)
    rates = (sampling_rate, resample, None if is_path else name)
    if labels is None:
        listener.captioner  # noqa: B018 - an error now, not after an hour of listening
    else:
        known = listener.labels(labels, template, multi_label)

    samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in extractor.stream(audio, *rates):
            samples += len(block)
            yield block

    overview, changes = _Overview(SPECTROGRAM_COLUMNS), _Changes(round(COMPARED_SECONDS / step))
    decibels, scores, heard = [], [], 0
    for moments in stream_moments(counted(), base, extractor, batch_seconds):
        overview.add(moments.frames)
        decibels.append(moments.decibels.astype(np.float16))
        if labels is None:
            changes.add(moments.embeds)
        else:
            scores.append(known.scores(moments.embeds).astype(np.float16))
        heard += len(moments.decibels)
        if progress:
            progress("listening", heard * step)

    decibels = np.concatenate(decibels)
    loud = decibels >= silence_decibels
    scores = np.concatenate(scores) if scores else np.zeros((heard, 0), np.float16)
    scores[~loud] = 0
    found = Timeline(
        name=name or (os.fspath(audio) if is_path else "recording"),
        seconds=samples / extractor.sampling_rate,
        segments=[],
        labels=[] if labels is None else known.names,
        scores=scores,
        seconds_per_moment=step,
        threshold=threshold,
        decibels=decibels,
        spectrogram=overview.columns(),
        mel_hz=extractor.mel_filters.argmax(0) * extractor.sampling_rate / extractor.n_fft,
    )
    if labels is None:
        bounds = stretches(changes.values(heard), loud, step, least, longest)
        blocks = extractor.stream(audio, *rates)
        found.segments = _captioned(found, bounds, blocks, listener.write, extractor.sampling_rate, progress)
    else:
        found.segments = label_segments(found, least)
    return found


# ------------------------------------------------------------------------------------------------ labels


def label_segments(found: Timeline, min_seconds: float) -> list[Segment]:
    """Segments in which labels are heard.

    Args:
        found: with scores and a threshold.
        min_seconds: gaps up to this length are bridged, and then segments below it dropped.
    """
    step, segments = found.seconds_per_moment, []
    for column, label in enumerate(found.labels):
        score = found.scores[:, column].astype(np.float32)
        runs = _runs((score >= found.threshold) & (score > 0))
        joined: list[list[int]] = []
        for start, end in runs:
            if joined and (start - joined[-1][1]) * step <= min_seconds:
                joined[-1][1] = end
            else:
                joined.append([start, end])
        for start, end in joined:
            last = _seconds_of(end, found)
            if last - start * step >= min_seconds:
                segments.append(Segment(start * step, last, label, float(score[start:end].mean())))
    return sorted(segments)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Where a mask is True: starts and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _seconds_of(moment: int, found: Timeline) -> float:
    """Where a moment begins; behind the last one lies the end of the recording."""
    return found.seconds if moment >= len(found.decibels) else moment * found.seconds_per_moment


# ------------------------------------------------------------------------------------------------ captions


class _Changes:
    """How much changes at each moment: 1 - the cosine of the mean embeddings before and behind it.

    Args:
        reach: moments on either side.
    """

    def __init__(self, reach: int):
        self._reach, self._kept, self._values = reach, None, [np.zeros(reach, np.float32)]

    def add(self, embeds: np.ndarray) -> None:
        reach = self._reach
        kept = embeds if self._kept is None else np.concatenate([self._kept, embeds])
        sums = np.concatenate([np.zeros((1, kept.shape[1])), kept.cumsum(0, dtype=np.float64)])
        place = np.arange(reach, max(reach, len(kept) - reach + 1))
        before, behind = sums[place] - sums[place - reach], sums[place + reach] - sums[place]
        cosine = (before * behind).sum(1) / (np.linalg.norm(before, axis=1) * np.linalg.norm(behind, axis=1))
        self._values.append((1 - cosine).astype(np.float32))
        self._kept = kept[len(place) :]

    def values(self, count: int) -> np.ndarray:
        """(count,) float32; 0 where too little lies before or behind."""
        values = np.concatenate(self._values)[:count]
        return np.pad(values, (0, count - len(values)))


def stretches(
    changes: np.ndarray, loud: np.ndarray, step: float, min_seconds: float, max_seconds: float
) -> list[tuple[int, int]]:
    """Parts of a recording that each sound alike, without the silence between them.

    Args:
        changes: (T,), how much changes at each moment.
        loud: (T,) bool, False at silence. Pauses of up to a second do not part.
        step: seconds from one moment to the next.
        min_seconds: a change less than this from another, stronger one does not part.
        max_seconds: what is longer is parted at its strongest change, however weak.
    Returns:
        first and last moment of each, the last one excluded.
    """
    quiet = [(start, end) for start, end in _runs(~loud) if (end - start) * step > PAUSE_SECONDS]
    sounding = np.ones(len(loud), bool)
    for start, end in quiet:
        sounding[start:end] = False
    least, most = max(1, math.ceil(min_seconds / step)), max(1, int(max_seconds / step))
    pending, done = _runs(sounding)[::-1], []
    while pending:
        start, end = pending.pop()
        inner = changes[start + least : max(0, end - least + 1)]
        too_long = end - start > most
        if not too_long and (not len(inner) or inner.max() < CHANGE):
            done.append((start, end))
            continue
        cut = start + (least + int(inner.argmax()) if len(inner) else most)
        pending += [(cut, end), (start, cut)]
    return done


def _captioned(
    found: Timeline,
    bounds: list[tuple[int, int]],
    blocks: Iterable[np.ndarray],
    write: Callable[[list[np.ndarray]], list[str]],
    rate: int,
    progress: Callable[[str, float], None] | None,
) -> list[Segment]:
    """A caption for each stretch; neighbours that get the same one are joined."""
    segments: list[Segment] = []
    seconds = [(start * found.seconds_per_moment, _seconds_of(end, found)) for start, end in bounds]
    waves = cut(blocks, [(round(start * rate), round(end * rate)) for start, end in seconds])
    for first in range(0, len(seconds), CAPTIONS_AT_ONCE):
        group = seconds[first : first + CAPTIONS_AT_ONCE]
        for (start, end), caption in zip(group, write(list(islice(waves, len(group)))), strict=True):
            if segments and segments[-1].label == caption and segments[-1].end == start:
                start = segments.pop().start
            segments.append(Segment(start, end, caption))
        if progress:
            progress("writing captions", group[-1][1])
    return segments


def cut(blocks: Iterable[np.ndarray], bounds: list[tuple[int, int]]) -> Iterator[np.ndarray]:
    """The waveform between bounds, in samples, which are in order and do not overlap."""
    bounds = iter(bounds)
    start, end = next(bounds, (None, None))
    held, first = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        while start is not None and first + len(held) >= end:
            yield held[start - first : end - first]
            start, end = next(bounds, (None, None))
        if start is None:
            return
        drop = min(len(held), max(0, start - first))
        held, first = held[drop:], first + drop


# ------------------------------------------------------------------------------------------------ the parts


class _Overview:
    """A spectrogram of any duration in few columns: the loudest of neighbouring frames, twice as many each time.

    Args:
        most: columns; half of them at least once there are so many frames.
    """

    def __init__(self, most: int):
        self._most, self._per_column = most, 1
        self._columns, self._rest = None, None

    def add(self, frames: np.ndarray) -> None:
        """
        Args:
            frames: (n, M).
        """
        rest = frames if self._rest is None else np.concatenate([self._rest, frames])
        whole = len(rest) // self._per_column * self._per_column
        self._rest = rest[whole:]
        new = _loudest(rest[:whole], self._per_column)
        columns = new if self._columns is None else np.concatenate([self._columns, new])
        while len(columns) > self._most:
            if len(columns) % 2:  # waits for its partner
                self._rest = np.concatenate([columns[-1:].repeat(self._per_column, 0), self._rest])
            columns = _loudest(columns[: len(columns) // 2 * 2], 2)
            self._per_column *= 2
        self._columns = columns

    def columns(self) -> np.ndarray:
        """(columns, M) float32."""
        rest = self._rest.max(0, keepdims=True) if len(self._rest) else self._rest
        return np.concatenate([self._columns, rest])


def _loudest(frames: np.ndarray, per_column: int) -> np.ndarray:
    return frames.reshape(-1, per_column, frames.shape[1]).max(1)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _clock(seconds: float) -> str:
    """hh:mm:ss.mmm"""
    milliseconds = round(seconds * 1000)
    return (
        f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:"
        f"{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"
    )


def _rounded(segment: Segment) -> dict[str, Any]:
    values = {"start": round(segment.start, 3), "end": round(segment.end, 3), "label": segment.label}
    return values if segment.score is None else {**values, "score": round(segment.score, 4)}
