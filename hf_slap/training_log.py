"""What a run tells while it goes on and when it is over: progress, metrics.jsonl, trackers, a picture, a
table."""

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

METRICS_FILE = "metrics.jsonl"
PICTURE_FILE = "losses.png"
_PARTS = ("contrastive", "masked", "caption")
_TITLES = {
    "contrastive": ("contrastive loss, nats", "#3366aa"),
    "masked": ("masked prediction, nats per patch", "#aa5533"),
    "caption": ("captioning, nats per token", "#338855"),
}
_HELD_OUT = {
    "text to audio recall@10": "clips found by caption, first 10",
    "audio to text recall@10": "captions found by clip, first 10",
    "zero-shot accuracy": "classified by label",
}


class TrainingLog:
    """The progress bar, `metrics.jsonl` and the trackers of one run.

    On a terminal there is a live bar; elsewhere (a log file) a line is printed every `log_every` steps.

    Args:
        folder: of the run.
        total_steps: of the run.
        first_step: steps done before; lines of `metrics.jsonl` beyond it are cut off, because the resumed run
            writes them again.
        track: where else the numbers go, (values, step), such as `Accelerator.log`.
        active: False on all processes but the first, where nothing is printed or written.
    """

    def __init__(
        self,
        folder: str | Path,
        total_steps: int,
        first_step: int = 0,
        track: Callable[[dict, int], None] | None = None,
        active: bool = True,
    ):
        self.folder = Path(folder)
        self.total_steps, self.first_step = total_steps, first_step
        self.track, self.active = track, active
        self._progress = self._file = None
        if not active:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = Console(soft_wrap=True)
        rows = [row for row in read_metrics(self.folder) if row["step"] <= first_step]
        beside = self.folder / f".{METRICS_FILE}"
        beside.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(beside, self.folder / METRICS_FILE)
        self._file = (self.folder / METRICS_FILE).open("a")
        self._started = self._asked = time.monotonic()
        self._heard = self._heard_before = 0.0
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("[bold]training"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._progress.add_task("", total=total_steps, completed=first_step, numbers="")
            self._progress.start()

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *reason) -> None:
        if self._progress is not None:
            self._progress.stop()
        if self._file is not None:
            self._file.close()

    def heard(self, step: int, audio_seconds: float) -> None:
        """After every step: how much audio it learned from, over all ranks."""
        if not self.active:
            return
        self._heard += audio_seconds
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """A line of training numbers after `step` steps: loss parts and whatever else is worth watching."""
        if not self.active:
            return
        now = time.monotonic()
        speed = (self._heard - self._heard_before) / max(now - self._asked, 1e-9)
        self._asked, self._heard_before = now, self._heard
        values = {**values, "audio_seconds_per_second": speed}
        self._write("train", step, values)
        numbers = "  ".join(f"{name} {values[name]:.3f}" for name in ("total", *_PARTS) if name in values)
        numbers += f"  {speed:.0f} s of audio/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=numbers)
        else:
            steps = max(step - self.first_step, 1)
            left = (now - self._started) / steps * (self.total_steps - step)
            self.console.print(f"step {step}/{self.total_steps}  {numbers}  {_clock(left)} left", highlight=False)

    def validation(self, step: int, values: Mapping[str, float]) -> None:
        """A line of validation numbers after `step` steps."""
        if not self.active:
            return
        self._write("validation", step, values)
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
        self.console.print(f"step {step}/{self.total_steps}  held out: {numbers}", highlight=False)

    def _write(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self.track is not None:
            self.track({f"{kind}/{name}": value for name, value in values.items()}, step)


def read_metrics(folder: str | Path) -> list[dict]:
    """The rows of a run's metrics.jsonl, {"kind": "train" | "validation", "step", ...}, less a torn last one."""
    path, rows = Path(folder) / METRICS_FILE, []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def draw_losses(folder: str | Path, levels: Mapping[str, float] | None = None) -> Path:
    """Draws what metrics.jsonl holds: one panel per loss part, one for the held-out scores.

    Args:
        folder: of the run; the picture is written there.
        levels: of "contrastive", "masked", "caption": what knowing nothing costs, drawn as a dashed line.
    Returns:
        the path of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from matplotlib.ticker import MaxNLocator

    rows = read_metrics(folder)
    train = [row for row in rows if row["kind"] == "train"]
    held_out = [row for row in rows if row["kind"] == "validation"]
    parts = [name for name in _PARTS if any(name in row for row in train)]
    panels = max(len(parts) + bool(held_out), 1)
    columns = 2 if panels in (2, 4) else panels
    lines = math.ceil(panels / columns)
    figure = Figure(figsize=(4.8 * columns, 3.3 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, name in zip(axes, parts, strict=False):
        title, colour = _TITLES[name]
        steps = [row["step"] for row in train if name in row]
        values = [row[name] for row in train if name in row]
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        axis.plot(steps, _smooth(values), color=colour, linewidth=2)
        if levels and name in levels:
            _dashed(axis, levels[name], "knowing nothing")
        axis.margins(y=0.12)
        axis.set_title(title, loc="left", fontsize=10)
    if held_out:
        for (name, title), colour in zip(_HELD_OUT.items(), ("#3366aa", "#aa5533", "#338855"), strict=True):
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
        axis.set_xlabel("step", fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    path = Path(folder) / PICTURE_FILE
    figure.savefig(path, dpi=130)
    return path


def _dashed(axis, level: float, text: str) -> None:
    axis.axhline(level, color="0.5", linestyle="--", linewidth=0.9)
    axis.annotate(
        text, (1, level), xycoords=("axes fraction", "data"), xytext=(-4, 3), textcoords="offset points",
        ha="right", color="0.4", fontsize=8,
    )  # fmt: skip


def note_skipped(skipped: Sequence[tuple[str, str]], run_folder: Path) -> None:
    """Says which clips could not be used, and why, once each; the list is kept beside the metrics."""
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / "skipped_clips.jsonl"
    known = path.read_text() if skipped and path.exists() else ""
    for clip, reason in skipped:
        line = json.dumps({"id": clip, "reason": reason}) + "\n"
        if line not in known:
            print(f"left out clip {clip}: {reason}")
            with path.open("a") as file:
                file.write(line)


def print_summary(folder: str | Path, seconds: float, console: Console | None = None) -> None:
    """A table of how the losses and the held-out scores went from the first line to the last.

    Args:
        folder: of the run.
        seconds: that this start of the run took.
    """
    rows = read_metrics(folder)
    table = Table(title="the run", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "first", "last", "best"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind, better in (("train", min), ("validation", max)):
        mine = [row for row in rows if row["kind"] == kind]
        names = [name for name in _PARTS if mine and name in mine[-1]] if kind == "train" else []
        if kind == "validation" and mine:
            names = [name for name in mine[-1] if name not in ("kind", "step", "chance")]
        for name in names:
            values = [row[name] for row in mine if name in row]
            label = f"{name} loss" if kind == "train" else f"held-out {name}"
            table.add_row(label, f"{values[0]:.3f}", f"{values[-1]:.3f}", f"{better(values):.3f}")
    console = console or Console(soft_wrap=True)
    console.print(table)
    speeds = [row["audio_seconds_per_second"] for row in rows if row["kind"] == "train"]
    if speeds:
        speed = sorted(speeds)[len(speeds) // 2]
        console.print(f"{_clock(seconds)} in all, {speed:.0f} seconds of audio per second", highlight=False)


def _smooth(values: list[float], share: float = 0.05) -> list[float]:
    """Running mean over a share of the curve, centred, shorter at the ends."""
    reach = max(1, round(len(values) * share / 2))
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d} min"
