"""What a command says: results on stdout or in a file, everything else on stderr, and the exit status."""

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDE = 10_000  # columns of a table that goes into a file or a pipe: its lines are never broken


class Format(str, Enum):
    """How results are written."""

    table = "table"
    json = "json"
    csv = "csv"


FormatOption = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="How results are written.  \\[default: by the suffix of --output, else table]"),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="Write the results into this file.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only failures on stderr.")]


class Report:
    """Results as they come, and failures, which are named, counted and never fatal.

    Used as a context; on leaving it the results are complete, and the command ends with status 1 if anything failed.
    JSON is a list of records, CSV one or more rows for each; both are written as they come. A table waits for its end.

    Args:
        columns: of table and CSV.
        more_columns: of CSV alone, after the others; rows have them, cells do not.
        format: None: by the suffix of `output`, else a table.
        output: a file, whose folder is made; None: stdout.
        what: what an item is called, in the plural.
        quiet: do not say where the results went.
    Raises:
        ValueError: a suffix that says nothing about the format, without a format.
    """

    def __init__(
        self,
        columns: Sequence[str],
        format: Format | None = None,
        output: Path | None = None,
        what: str = "sounds",
        quiet: bool = False,
        more_columns: Sequence[str] = (),
    ):
        suffix = output.suffix.lower().removeprefix(".") if output else ""
        if format is None and suffix not in ("", "txt", *Format.__members__):
            raise ValueError(f"--output {output}: name it .json, .csv or .txt (a table), or say --format")
        self.format = format or (Format(suffix) if suffix in ("json", "csv") else Format.table)
        self.columns, self.what, self._output, self._quiet = [*columns, *more_columns], what, output, quiet
        self.done = self.failed = 0
        self.bar: Any = None  # of `progress`, told of every item
        self._table = Table(*columns, box=None, pad_edge=False, header_style="bold")

    def __enter__(self) -> "Report":
        if self._output:
            self._output.parent.mkdir(parents=True, exist_ok=True)
        self._file: TextIO = open(self._output, "w", encoding="utf-8", newline="") if self._output else sys.stdout
        return self

    def add(self, record: dict, rows: Iterable[Sequence] | None = None, cells: Iterable[Sequence] | None = None):
        """One result.

        Args:
            record: for JSON.
            rows: for CSV, values in the order of the columns; default: the record's.
            cells: for the table; default: `rows`.
        """
        rows = list(rows) if rows is not None else [[record[name] for name in self.columns]]
        if self.format is Format.json:
            self._write(("[\n" if not self.done else ",\n") + json.dumps(record, ensure_ascii=False))
        elif self.format is Format.csv:
            for row in [self.columns, *rows] if not self.done else rows:
                self._write_csv(row)
        else:
            for row in cells if cells is not None else rows:
                self._table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
        self.done += 1
        self._count()

    def fail(self, name: str, reason: str) -> None:
        """One item that could not be done, and why."""
        self.failed += 1
        complain(reason if name in reason else f"{name}: {reason}")
        self._count()

    @property
    def streams_to_terminal(self) -> bool:
        """Whether results are printed as they come, where a bar would stand between them."""
        return self.format is not Format.table and self._output is None and sys.stdout.isatty()

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None:
                self._close()
        finally:
            if self._output:
                self._file.close()
        if kind is None and self._output and not self._quiet:
            errors().print(f"wrote {self._output}: {self.done} {self.what}", style="dim", markup=False)
        if kind is None and self.failed:
            errors().print(f"{self.failed} of {self.failed + self.done} {self.what} failed", style="bold red")
            raise typer.Exit(1)

    def _close(self) -> None:
        if self.format is Format.json:
            self._write("[]\n" if not self.done else "\n]\n")
        elif self.format is Format.csv and not self.done:
            self._write_csv(self.columns)
        elif self.format is Format.table and self._table.row_count:
            show(self._table, file=self._file)

    def _count(self) -> None:
        if self.bar:
            self.bar.update(1)

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def _write_csv(self, row: Sequence) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        self._write(line.getvalue())


def shown(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: 0:04.2, 1:02:03.4."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{tenths // 10:02d}.{tenths % 10}"


def bar_text(score: float, width: int = 10) -> Text:
    """A score from 0 to 1 as number and bar."""
    eighths = round(score * width * 8)
    bar = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return Text.assemble(f"{score:.2f} ", (bar, "cyan"))


def show(*things: Any, file: TextIO | None = None) -> None:
    """Prints rich text or tables, on stdout unless told otherwise; wide where nobody watches."""
    file = file or sys.stdout
    Console(file=file, width=None if file.isatty() else WIDE, highlight=False).print(*things)


_ERRORS: list[Console] = []


def errors() -> Console:
    """The console on stderr, the same for progress and messages, so that they do not overwrite each other."""
    if not _ERRORS or _ERRORS[0].file is not sys.stderr:
        _ERRORS[:] = [Console(stderr=True, highlight=False, soft_wrap=True)]
    return _ERRORS[0]


def complain(message: str) -> None:
    """A line on stderr for something that went wrong."""
    errors().print(Text.assemble(("slap: ", "bold red"), message))


def calm() -> None:
    """Keeps transformers' own bars from between our lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()


class _Bar:
    """What `progress` yields: called, or `update`d as one of tqdm is, with the number of items done."""

    def __init__(self, advance: Any = None, describe: Any = None):
        self._advance, self._describe = advance, describe

    def __call__(self, count: float = 1) -> None:
        if self._advance:
            self._advance(count)

    update = __call__

    def set_postfix_str(self, text: str) -> None:
        if self._describe:
            self._describe(text)


@contextmanager
def progress(what: str, total: int | None = None, quiet: bool = False) -> Iterator[_Bar]:
    """A bar on stderr, where someone watches. Without a total it only shows that something goes on."""
    console = errors()
    if quiet or not console.is_terminal:
        yield _Bar()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    counting = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn()) if total else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *counting, TextColumn("[dim]{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as shown_bar:
        task = shown_bar.add_task(what, total=total, note="")
        yield _Bar(lambda count: shown_bar.advance(task, count), lambda text: shown_bar.update(task, note=text))
