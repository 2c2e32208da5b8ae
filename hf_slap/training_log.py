"""What a run tells while it goes on and when it is over: progress, metrics.jsonl, trackers, a table."""

import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .files import read_json_lines, write_whole
from .skipped_steps import SKIPPED_FILE, read_skipped

METRICS_FILE = "metrics.jsonl"
CLIPS_FILE = "skipped_clips.jsonl"
PICTURE_FILE = "losses.png"
TRACKER_FILE = "tracker_run.txt"
SPEED = ("audio_seconds_per_second", "clips_per_second", "utilisation", "waiting_share", "memory_gb")  # by the clock
LOSSES = ("contrastive", "masked", "caption")
_GROUPS = {
    "loss": ("total", *LOSSES, "masked_gain", "constant_prediction"),
    "embeddings": ("audio_rank", "text_rank", "modality_gap", "logit_scale", "logit_bias"),
    "prototypes": (
        "target_entropy", "prototype_entropy", "target_information", "prototypes_used", "patch_rank",
    ),
    "batch": ("clips", "skipped_steps", "false_negatives", "false_negative_share", "padding_share"),
    "optimizer": ("gradient_norm", "learning_rate", "teacher_momentum", "teacher_temperature"),
    "speed": SPEED,
}  # fmt: skip
# Of the summary: more than the losses.
_TOLD = {
    "masked_gain": "masked prediction better than a constant guess by, nats",
    "audio_rank": "effective rank of clips",
    "text_rank": "effective rank of captions",
    "modality_gap": "modality gap",
    "logit_scale": "logit scale",
    "gradient_norm": "gradient norm",
    "prototypes_used": "prototypes used, share",
    "false_negative_share": "pairs left out as false negatives, share",
}
_PACE = {
    "audio_seconds_per_second": "{:.0f} seconds of audio per second",
    "utilisation": "{:.0%} of the device's matmul rate",
    "waiting_share": "{:.0%} of the time waiting for data",
    "memory_gb": "{:.1f} GB of memory",
}
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


def better_of(name: str) -> Callable:
    """`min` or `max`: which of two held-out numbers of this name is the better one."""
    return min if name.endswith("loss") else max


class TrainingLog:
    """The progress bar, `metrics.jsonl` and the trackers of one run.

    On a terminal there is a live bar; elsewhere (a log file) a line is printed every `log_every` steps.

    Args:
        folder: of the run.
        total_steps: of the run.
        first_step: steps done before; lines of `metrics.jsonl` beyond it are cut off, because the resumed run
            writes them again.
        track: where else the numbers go, (values, step), such as `Accelerator.log`; their names are grouped.
        watch: judges every line of training numbers, such as `collapse.CollapseWatch`; what it says is printed, and
            becomes a line of kind "warning" with "sign", "message" and "advice".
        active: False on all processes but the first, where nothing is printed or written.
    """

    def __init__(
        self,
        folder: str | Path,
        total_steps: int,
        first_step: int = 0,
        track: Callable[[dict, int], None] | None = None,
        active: bool = True,
        watch: Callable[[Mapping], list[dict]] | None = None,
    ):
        self.folder = Path(folder)
        self.total_steps, self.first_step = total_steps, first_step
        self.track, self.active, self.watch = track, active, watch
        self._progress = self._file = None
        if not active:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console = Console(soft_wrap=True)
        rows = [row for row in read_metrics(self.folder) if row["step"] <= first_step]
        for row in rows if watch else []:
            if row["kind"] == "train":
                watch(row)  # what it says is among the rows
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
        values = {"audio_seconds_per_second": speed, **values}
        speed = values["audio_seconds_per_second"]
        self._write("train", step, values)
        numbers = "  ".join(f"{name} {values[name]:.3f}" for name in ("total", *LOSSES) if name in values)
        numbers += f"  {speed:.0f} s of audio/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, numbers=numbers)
        else:
            steps = max(step - self.first_step, 1)
            left = (now - self._started) / steps * (self.total_steps - step)
            self.console.print(f"step {step}/{self.total_steps}  {numbers}  {_clock(left)} left", highlight=False)
        for event in self.watch({"step": step, **values}) if self.watch else []:
            self._write("warning", step, event)
            _print_warning(self.console, {"step": step, **event})

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
        if self.track is not None and kind != "warning":
            self.track({tracked_name(kind, name): value for name, value in values.items()}, step)


def tracker_settings(tracker: str, folder: Path, first_step: int) -> dict[str, dict]:
    """What makes a tracker go on with the run that it began; `init_kwargs` of `Accelerator.init_trackers`.

    Trackers that keep runs by name get one that is made once and kept in the run's folder (`tracker_run.txt`).

    Args:
        tracker: "tensorboard" (steps beyond `first_step` are overwritten), "wandb", "swanlab", "trackio"; others start
            a new run.
        folder: of the run.
        first_step: steps done before.
    """
    if tracker == "tensorboard":
        return {tracker: {"purge_step": first_step + 1}}
    if tracker not in ("wandb", "swanlab", "trackio"):
        return {}
    path = folder / TRACKER_FILE
    if not path.exists():
        write_whole(path, lambda file: file.write(uuid.uuid4().hex[:12].encode()))
    name = path.read_text()
    return {tracker: {"name" if tracker == "trackio" else "id": name, "resume": "allow"}}


def tracked_name(kind: str, name: str) -> str:
    """A name under which trackers put together what belongs together: "loss/total", "masked by source/radio", ..."""
    if kind != "train":
        return f"{kind}/{name}"
    if "/" in name:
        part, by, bin_name = name.split("/", 2)
        return f"{part} by {by}/{bin_name}"
    return f"{_GROUP_OF.get(name, 'train')}/{name}"


def read_metrics(folder: str | Path) -> list[dict]:
    """The rows of metrics.jsonl, {"kind": "train" | "validation" | "warning", "step", ...}, less a torn last one."""
    return read_json_lines(Path(folder) / METRICS_FILE)


def note_skipped(skipped: Sequence[tuple[str, str]], run_folder: Path) -> None:
    """Says which clips could not be used, and why, once each; the list is kept beside the metrics."""
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / CLIPS_FILE
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
    for kind in ("train", "validation"):
        mine = [row for row in rows if row["kind"] == kind]
        names = [name for name in LOSSES if mine and name in mine[-1]] if kind == "train" else []
        if kind == "validation" and mine:
            names = [name for name in mine[-1] if name not in ("kind", "step", "chance")]
        for name in names:
            values = [row[name] for row in mine if name in row]
            label = f"{name} loss" if kind == "train" else f"held-out {name}"
            table.add_row(label, f"{values[0]:.3f}", f"{values[-1]:.3f}", f"{better_of(label)(values):.3f}")
    console = console or Console(soft_wrap=True)
    train = [row for row in rows if row["kind"] == "train"]
    for name, label in _TOLD.items():
        values = [row[name] for row in train if name in row]
        if values:
            table.add_row(label, f"{values[0]:.3g}", f"{values[-1]:.3g}", "")
    console.print(table)
    speed = {name: sorted(row[name] for row in train if name in row) for name in SPEED}
    middle = {name: values[len(values) // 2] for name, values in speed.items() if values}
    told = [f"{_clock(seconds)} in all"] + [text.format(middle[name]) for name, text in _PACE.items() if name in middle]
    console.print(", ".join(told), highlight=False)
    if skipped := read_skipped(folder):
        steps = max(skipped[-1]["step"], *(row["step"] for row in rows), 0)
        console.print(f"{len(skipped)} of {steps} steps were skipped, see {SKIPPED_FILE}", highlight=False)
    if (broken := Path(folder) / CLIPS_FILE).exists():
        count = len(broken.read_text().splitlines())
        console.print(f"{count} clips could not be used, see {CLIPS_FILE}", highlight=False)
    for row in rows:
        if row["kind"] == "warning":
            _print_warning(console, row)


def _print_warning(console: Console, row: Mapping) -> None:
    console.print(
        f"[bold red]WARNING[/] after step {row['step']}: {row['message']}. Try: {row['advice']}.", highlight=False
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d} min"
