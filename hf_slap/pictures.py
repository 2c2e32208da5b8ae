"""Pictures of a run, drawn from its metrics.jsonl: the losses, and how everything else was doing."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from .training_log import LOSSES, PICTURE_FILE, read_metrics

HEALTH_FILE = "health.png"
_TITLES = {
    "contrastive": ("contrastive loss, nats", "#3366aa"),
    "masked": ("masked prediction, nats per patch", "#aa5533"),
    "caption": ("captioning, nats per token", "#338855"),
}
_COLOURS = ("#3366aa", "#aa5533", "#338855", "#8855aa")
_HELD_OUT = {
    "text to audio recall@10": "clips found by caption, first 10",
    "audio to text recall@10": "captions found by clip, first 10",
    "zero-shot accuracy": "classified by label",
    "zero-shot score": "zero-shot tasks, mean",
}
_SHARES = (0, 1.4)  # up to 1, and room for the legend
# Title, {value: label}, limits of the axis ("log": its scale).
_HEALTH = (
    ("effective rank", {"audio_rank": "clips", "text_rank": "captions", "patch_rank": "patches, teacher"}, (1, None)),
    ("modality gap: distance of the centroids", {"modality_gap": "modality gap"}, (0, None)),
    ("scale of the similarities", {"logit_scale": "logit scale", "logit_bias": "logit bias"}, None),
    ("norm of the gradient, before clipping", {"gradient_norm": "before clipping"}, "log"),
    (
        "targets of masked prediction, as shares",
        {
            "target_entropy": "entropy of a target", "prototype_entropy": "entropy of their use",
            "target_information": "information", "prototypes_used": "prototypes used",
        },
        _SHARES,
    ),
    ("better than a constant guess, nats per patch", {"masked_gain": "student"}, None),
    ("seconds of audio per second", {"audio_seconds_per_second": "all processes"}, (0, None)),
    (
        "shares",
        {
            "utilisation": "of the matmul rate used", "waiting_share": "of time waiting for data",
            "padding_share": "padding saved", "false_negative_share": "pairs left out",
        },
        (0, None),
    ),
)  # fmt: skip
_MOST_BINS = 16


def draw_losses(folder: str | Path, levels: Mapping[str, float] | None = None) -> Path:
    """One panel per loss part, one for the held-out scores.

    Args:
        folder: of the run; the picture is written there.
        levels: of "contrastive", "masked", "caption": what knowing nothing costs, drawn as a dashed line.
    Returns:
        the path of the picture.
    """
    rows = read_metrics(folder)
    train = [row for row in rows if row["kind"] == "train"]
    held_out = [row for row in rows if row["kind"] == "validation"]
    parts = [name for name in LOSSES if any(name in row for row in train)]
    panels = max(len(parts) + bool(held_out), 1)
    columns = 2 if panels in (2, 4) else panels
    lines = math.ceil(panels / columns)
    figure = _figure(4.8 * columns, 3.3 * lines)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, name in zip(axes, parts, strict=False):
        title, colour = _TITLES[name]
        _curve(axis, train, name, colour)
        if levels and name in levels:
            _dashed(axis, levels[name], "knowing nothing")
        axis.margins(y=0.12)
        axis.set_title(title, loc="left", fontsize=10)
    if held_out:
        for (name, title), colour in zip(_HELD_OUT.items(), _COLOURS, strict=False):
            points = [(row["step"], row[name]) for row in held_out if name in row]
            if points:
                axes[-1].plot(*zip(*points, strict=True), "o-", markersize=3, color=colour, label=title)
        if "chance" in held_out[-1]:
            _dashed(axes[-1], held_out[-1]["chance"], "classification by chance")
        axes[-1].set_ylim(0, 1)
        axes[-1].set_title("held-out clips", loc="left", fontsize=10)
        if axes[-1].lines:
            axes[-1].legend(frameon=False, fontsize=8, loc="upper left")
    for axis in axes:
        _over_steps(axis)
    return _saved(figure, Path(folder) / PICTURE_FILE)


def draw_health(folder: str | Path) -> Path | None:
    """How embeddings, targets, gradient and speed went, and which clips cost more than others.

    Args:
        folder: of the run; the picture is written there.
    Returns:
        the path of the picture; None when the run has told nothing of this kind.
    """
    from matplotlib.ticker import LogFormatter

    rows = read_metrics(folder)
    train = [row for row in rows if row["kind"] == "train"]
    warnings = [row for row in rows if row["kind"] == "warning"]
    panels = [panel for panel in _HEALTH if any(name in row for name in panel[1] for row in train)]
    bins = {by: found for by in ("source", "seconds") if (found := costs_by(by, train))}
    if not panels:
        return None
    columns = min(4, len(panels))
    lines = math.ceil(len(panels) / columns)
    tallest = 0.8 + 0.25 * max(map(len, bins.values()), default=0)  # inches
    heights = [2.9 * lines, *([max(tallest, 2.9)] if bins else [])]
    figure = _figure(4.3 * columns, sum(heights))
    upper, *lower = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flatten()
    axes = upper.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, names, limits) in zip(axes, panels, strict=False):
        for (name, label), colour in zip(names.items(), _COLOURS, strict=False):
            _curve(axis, train, name, colour, label)
        if limits == "log":
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))  # few decades only
        elif limits:
            axis.set_ylim(*limits)
        if limits == _SHARES:
            axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
        if "masked_gain" in names:
            _dashed(axis, 0.0, "a constant guess")
        for warning in warnings:
            axis.axvline(warning["step"], color="#cc2222", linewidth=0.9)
            if axis is axes[0]:
                axis.annotate(
                    warning["sign"], (warning["step"], 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0),
                    textcoords="offset points", rotation=90, color="#cc2222", fontsize=7, va="bottom",
                )  # fmt: skip
        axis.set_title(title, loc="left", fontsize=10)
        if len(axis.get_legend_handles_labels()[0]) > 1:
            above = {"loc": "upper center", "ncols": 2} if limits == _SHARES else {}
            axis.legend(framealpha=0.75, edgecolor="none", fontsize=7, **above)
        _over_steps(axis)
    if bins:
        axes = lower[0].subplots(1, len(bins), squeeze=False).flatten()
        for axis, (by, found) in zip(axes, bins.items(), strict=True):
            _dots(axis, by, found)
    return _saved(figure, Path(folder) / HEALTH_FILE)


def costs_by(by: str, train: Sequence[Mapping], share: float = 0.2) -> dict[str, dict[str, float]]:
    """Mean cost of the clips of each bin over the last share of the logged steps, relative to that of all clips.

    Args:
        by: "source" or "seconds".
        train: lines of training numbers.
        share: of the lines.
    Returns:
        {bin: {"clips": how many were counted, "contrastive": 1.1, ...}}; for sources the largest first.
    """
    rows = train[-max(1, round(len(train) * share)) :]
    clips: dict[str, float] = defaultdict(float)
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        for key, value in row.items():
            part, _, name = key.partition(f"/{by}/")
            if not name:
                continue
            if part == "clips":
                clips[name] += value
            else:
                weight = row[f"clips/{by}/{name}"]
                sums[part, name][0] += value * weight
                sums[part, name][1] += weight
    total = {
        part: sum(s for (p, _), (s, _) in sums.items() if p == part)
        / sum(w for (p, _), (_, w) in sums.items() if p == part)
        for part, _ in sums
    }
    order = sorted(clips, key=lambda name: -clips[name])
    if by == "seconds":
        order.sort(key=lambda name: (not name.startswith("under"), float(name.removeprefix("under ").split()[0])))
    return {
        name: {
            "clips": clips[name],
            **{p: sums[p, name][0] / sums[p, name][1] / total[p] for p in LOSSES if total.get(p) and (p, name) in sums},
        }
        for name in order
    }


def _dots(axis, by: str, found: Mapping[str, Mapping[str, float]]) -> None:
    """A row for each bin, a dot for each part of the loss."""
    shown = list(found)[:_MOST_BINS]
    for part in LOSSES:
        points = [(found[name][part], place) for place, name in enumerate(shown) if part in found[name]]
        if points:
            axis.plot(*zip(*points, strict=True), "o", markersize=5, color=_TITLES[part][1], alpha=0.85, label=part)
    labels = [f"{name}{' s' if by == 'seconds' else ''}  ({found[name]['clips']:,.0f})" for name in shown]
    axis.set_yticks(range(len(shown)), labels)
    axis.invert_yaxis()
    axis.axvline(1.0, color="0.5", linestyle="--", linewidth=0.9)
    left_out = len(found) - len(shown)
    what = "source" if by == "source" else "duration"
    title = f"loss by {what} (clips), last fifth of the run"
    axis.set_title(title + (f", {left_out} smaller ones not shown" if left_out else ""), loc="left", fontsize=10)
    axis.set_xlabel("relative to the loss of all clips", fontsize=9)
    axis.legend(frameon=False, fontsize=8, loc="best")
    _plain(axis)


def _figure(width: float, height: float):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _saved(figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    return path


def _curve(axis, rows: Sequence[Mapping], name: str, colour: str, label: str | None = None) -> None:
    """Faint as it is, and smoothed on top."""
    steps = [row["step"] for row in rows if name in row]
    values = [row[name] for row in rows if name in row]
    if values:
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(steps, _smooth(values), color=colour, linewidth=2 if label is None else 1.6, label=label)


def _smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Running mean over a share of the curve, centred, shorter at the ends."""
    reach = max(1, round(len(values) * share / 2))
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _dashed(axis, level: float, text: str) -> None:
    axis.axhline(level, color="0.5", linestyle="--", linewidth=0.9)
    axis.annotate(
        text, (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points",
        ha="right", color="0.4", fontsize=8,
    )  # fmt: skip


def _over_steps(axis) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("step", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _plain(axis)


def _plain(axis) -> None:
    axis.tick_params(which="both", labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)
