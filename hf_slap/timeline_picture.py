"""Draws a timeline: the spectrogram, and below it a track for each label, or numbered stretches and their captions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .timeline import Segment, Timeline

COLOURS = ("#3b7dd8", "#e4572e", "#2a9d5c", "#8e5bd0", "#d9a400", "#17a2b0", "#d6478f", "#7a6f5d", "#5b9f00", "#4a5a8c")
INK, FAINT = "#22252b", "#8b9099"
MOST_TRACKS, MOST_CAPTIONS = 24, 24
_WIDTH = 12.0  # inches, as everything below
_SPECTROGRAM, _TRACK, _LINE, _AXIS, _TITLE = 2.3, 0.36, 0.25, 0.42, 0.5
_LEFT_OUT = "… and {} more"
_TICKS_HZ = (100, 500, 1000, 2000, 4000, 8000)


def draw_timeline(found: "Timeline", path: Path) -> Path:
    """Writes a picture of a timeline, of a kind that its suffix says. Returns the path.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = timeline_figure(found)
    figure.savefig(path, dpi=130)
    return path


def timeline_figure(found: "Timeline"):
    """The picture as a matplotlib `Figure`, outside pyplot."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure  # without pyplot: no global state, no display
    except ImportError as error:
        raise ImportError('pictures are drawn with matplotlib: pip install "hf_slap[picture]"') from error

    tracks = _tracks(found) if found.labels else []
    listed = [] if found.labels else found.segments[:MOST_CAPTIONS]
    left_out = (len(found.labels) - len(tracks)) if found.labels else len(found.segments) - len(listed)
    lines = len(listed) + bool(left_out) + (not tracks and not listed)
    below = _TRACK * max(1, len(tracks)) + _AXIS
    height = _TITLE + _SPECTROGRAM + 0.12 + below + _LINE * lines + (0.12 if lines else 0)
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)

    left = min(0.30, 0.035 + 0.0078 * max([8, *(len(_short(label)) for label in tracks)]))
    right = 0.93

    def place(top: float, tall: float) -> tuple[float, float, float, float]:
        return left, 1 - (top + tall) / height, right - left, tall / height

    figure.text(
        left, 1 - 0.3 / height, _short(Path(found.name).name, 90), color=INK, fontsize=13, weight="bold", va="center"
    )
    figure.text(right, 1 - 0.3 / height, _length(found.seconds), color=FAINT, fontsize=10.5, va="center", ha="right")
    _draw_spectrogram(figure.add_axes(place(_TITLE, _SPECTROGRAM)), found)
    axis = figure.add_axes(place(_TITLE + _SPECTROGRAM + 0.12, below - _AXIS))
    if found.labels:
        _draw_tracks(axis, found, tracks)
    else:
        _draw_stretches(axis, listed, found.segments)
    _over_time(axis, found.seconds)
    rows = [(str(row), _span(one, found.seconds), _short(one.label, 110)) for row, one in enumerate(listed, 1)]
    rows += [("", _LEFT_OUT.format(left_out), "")] * bool(left_out)
    if not tracks and not listed:
        rows = [("", "silence", "")]
    for line, (number, span, caption) in enumerate(rows):
        y = 1 - (_TITLE + _SPECTROGRAM + 0.12 + below + _LINE * (line + 0.5)) / height
        colour = COLOURS[line % len(COLOURS)]
        figure.text(left + 0.018, y, number, color=colour, fontsize=10, weight="bold", ha="right", va="center")
        figure.text(left + 0.028, y, span, color=FAINT, fontsize=10, va="center")
        figure.text(left + 0.15, y, caption, color=INK, fontsize=10, va="center")
    return figure


def _tracks(found: "Timeline") -> list[str]:
    """Labels that are drawn, in their order: all, or those heard longest."""
    if len(found.labels) <= MOST_TRACKS:
        return found.labels
    heard = {label: 0.0 for label in found.labels}
    for one in found.segments:
        heard[one.label] += one.end - one.start
    most = sorted(found.labels, key=lambda label: -heard[label])[:MOST_TRACKS]
    return [label for label in found.labels if label in most]


def _draw_spectrogram(axis, found: "Timeline") -> None:
    values = found.spectrogram.T
    low, high = np.quantile(values, [0.05, 0.999])
    extent = (0, found.seconds, -0.5, len(values) - 0.5)
    axis.imshow(
        values, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=max(high, low + 1e-3),
        interpolation="bilinear",
    )  # fmt: skip
    ticks = [hz for hz in _TICKS_HZ if found.mel_hz[0] <= hz <= found.mel_hz[-1] * 1.05]
    names = [f"{hz / 1000:g} kHz" if hz >= 1000 else f"{hz} Hz" for hz in ticks]
    axis.set_yticks(np.interp(ticks, found.mel_hz, np.arange(len(values))), names, fontsize=8, color=FAINT)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)


def _draw_tracks(axis, found: "Timeline", tracks: Sequence[str]) -> None:
    heard = {label: [one for one in found.segments if one.label == label] for label in tracks}
    for row, label in enumerate(tracks):
        colour, middle = COLOURS[row % len(COLOURS)], len(tracks) - 1 - row
        if row % 2:
            axis.axhspan(middle - 0.5, middle + 0.5, color="#f5f6f8", zorder=0, linewidth=0)
        times, curve = _envelope(found.scores[:, found.labels.index(label)], found)
        axis.fill_between(
            times, middle - 0.42, middle - 0.42 + 0.84 * curve, color=colour, alpha=0.28, linewidth=0, zorder=1
        )
        _draw_bars(axis, heard[label], middle - 0.42, 0.84, [colour] * len(heard[label]), found.seconds)
        total = sum(one.end - one.start for one in heard[label])
        axis.annotate(
            _length(total) if total else "–", (1, middle), xycoords=("axes fraction", "data"), xytext=(8, 0),
            textcoords="offset points", va="center", fontsize=8.5, color=INK if total else FAINT,
        )  # fmt: skip
    axis.set_ylim(-0.5, len(tracks) - 0.5)
    axis.set_yticks(range(len(tracks)), [_short(label) for label in reversed(tracks)], fontsize=10)
    for text, label in zip(axis.get_yticklabels(), reversed(tracks), strict=True):
        text.set_color(INK if heard[label] else FAINT)


def _draw_stretches(axis, listed: "Sequence[Segment]", segments: "Sequence[Segment]") -> None:
    colours = [COLOURS[row % len(COLOURS)] for row in range(len(segments))]
    _draw_bars(axis, segments, 0.1, 0.8, colours, segments[-1].end if segments else 1.0)
    span = segments[-1].end if segments else 1.0
    for row, one in enumerate(listed):
        if (one.end - one.start) / span > 0.012:  # else there is no room for a number
            axis.text(
                (one.start + one.end) / 2, 0.5, str(row + 1), color="white", fontsize=9, weight="bold", ha="center",
                va="center", clip_on=True,
            )  # fmt: skip
    axis.set_ylim(0, 1)
    axis.set_yticks([])


def _draw_bars(
    axis, segments: "Sequence[Segment]", bottom: float, tall: float, colours: Sequence[str], span: float
) -> None:
    least = span / 1200  # what is shorter would not be seen
    bars = [(one.start, max(least, one.end - one.start)) for one in segments]
    edges = [0.6 if width > 5 * least else 0.0 for _, width in bars]  # points; of a narrow bar nothing would be left
    axis.broken_barh(
        bars, (bottom, tall), facecolors=colours, alpha=0.85, edgecolor="white", linewidth=edges or 0, zorder=2
    )


def _envelope(scores: np.ndarray, found: "Timeline", most: int = 1200) -> tuple[np.ndarray, np.ndarray]:
    """Times and highest scores of at most so many stretches."""
    width = -(-len(scores) // most)
    padded = np.pad(scores.astype(np.float32), (0, -len(scores) % width), mode="edge")
    curve = padded.reshape(-1, width).max(1)
    times = np.minimum((np.arange(len(curve)) + 0.5) * width * found.seconds_per_moment, found.seconds)
    return times, curve


def _over_time(axis, seconds: float) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
    step = next((step for step in steps if seconds / step <= 13), 14_400)
    axis.set_xlim(0, seconds)
    axis.xaxis.set_major_locator(MultipleLocator(step))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _time(value, seconds, step < 1)))
    axis.tick_params(axis="x", labelsize=9, colors=FAINT, length=3)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#d9dce1", linewidth=0.6, zorder=0)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color("#c4c8ce")


def _time(seconds: float, longest: float, tenths: bool | None = None) -> str:
    """A place in a recording of `longest` seconds: 7.5, 1:07.5 or 1:02:07."""
    tenths = longest < 120 if tenths is None else tenths
    units = round(seconds * 10) if tenths else round(seconds) * 10
    rest = f"{units % 600 / 10:04.1f}" if tenths else f"{units % 600 // 10:02d}"
    if longest >= 3600:
        return f"{units // 36_000}:{units // 600 % 60:02d}:{rest}"
    return f"{units // 600}:{rest}"


def _span(one: "Segment", longest: float) -> str:
    return f"{_time(one.start, longest)} – {_time(one.end, longest)}"


def _length(seconds: float) -> str:
    """A duration: 7.5 s, 12 min 5 s or 2 h 3 min."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole // 60 % 60} min"


def _short(text: str, most: int = 32) -> str:
    text = " ".join(text.split()).replace("$", r"\$")  # not the sign of mathematics
    return text if len(text) <= most else text[: most - 1] + "…"
