"""The commands that listen: classify, caption, embed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from .inputs import Device, Inputs, Model, found_place, found_sounds, label_names, open_listener
from .output import (
    Format,
    FormatOption,
    OutputOption,
    Quiet,
    Report,
    bar_text,
    calm,
    clock,
    errors,
    progress,
)

if TYPE_CHECKING:
    from ..listening import Listener

_BEST = 3  # labels of a sound in a table, unless told otherwise
_NUMBERS_SHOWN = 4


def classify(
    sounds: Inputs,
    labels: Annotated[
        list[str],
        typer.Option(
            "--labels",
            "-l",
            help="Texts between commas, or a .txt file with one a line. May be repeated.",
            show_default=False,
        ),
    ],
    model: Model = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help='Makes a text of a label. Several are averaged.  \\[default: "This is a sound of {}."]'),
    ] = None,
    multi_label: Annotated[
        bool, typer.Option("--multi-label", help="Several labels may fit: judge each by itself.")
    ] = False,
    anywhere: Annotated[
        bool, typer.Option("--anywhere", help="Of a long recording, score its best window instead of the whole.")
    ] = False,
    top: Annotated[
        int | None, typer.Option("--top", "-k", min=1, help="Labels per sound.  \\[default: 3 in a table, else all]")
    ] = None,
    format: FormatOption = None,
    output: OutputOption = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Which of your labels fit a sound.

    Scores compare the labels with each other and sum to 1; with --multi-label each is judged by itself. A recording of
    any length will do: longer ones than the model was trained on are heard in windows.

    Examples:
      slap classify clip.wav --labels "a dog, rain, a guitar"
      slap classify recordings/ --labels classes.txt --format csv > scores.csv
      slap classify "*.mp3" https://host/clip.ogg -l "music, speech" --multi-label
      find . -name "*.flac" | slap classify - -l "a bird, a car" --top 1
    """
    from ..presence import TEMPLATE

    names = label_names(labels)
    with _listening(sounds, model, device, ["sound", "label", "score"], format, output, quiet) as run:
        known = run.listener.labels(names, template or TEMPLATE, multi_label)
        best = top or (_BEST if run.report.format is Format.table else None)
        if len(names) == 1 and not multi_label and not quiet:
            errors().print(
                "one label alone always scores 1: give others to compare with, or --multi-label", style="dim"
            )
        for clip in run.listener.embed(run.items, each_window=anywhere, bar=run.bar):
            if clip.reason is not None:
                run.report.fail(clip.id, clip.reason)
                continue
            name, ranked = clip.id, known.rank(clip.embedding, best)
            run.report.add(
                {"sound": name, "labels": [{"label": r["label"], "score": r["score"]} for r in ranked]},
                rows=[[name, r["label"], r["score"]] for r in ranked],
                cells=[["" if row else name, r["label"], bar_text(r["score"])] for row, r in enumerate(ranked)],
            )


def caption(
    sounds: Inputs,
    model: Model = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=1, help="A caption for each so many seconds.  \\[default: what the model was trained on, mostly 30]"
        ),
    ] = None,
    beams: Annotated[int, typer.Option(min=1, help="Beams of the search for words; more is slower.")] = 1,
    format: FormatOption = None,
    output: OutputOption = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Say in words what is heard.

    A short sound gets one caption, a longer one a caption for each 30 seconds or as --every says.

    Examples:
      slap caption clip.wav
      slap caption film.mp4 --every 10 --output film.csv
      slap caption recordings/ --format json | jq .
    """
    with _listening(sounds, model, device, ["sound", "start", "end", "caption"], format, output, quiet) as run:
        words = {"num_beams": beams} if beams > 1 else {}
        for name, captions, reason in run.listener.caption_each(run.items, every, **words):
            if reason is not None:
                run.report.fail(name, reason)
                continue
            run.report.add(
                {"sound": name, "captions": [one._asdict() for one in captions]},
                rows=[[name, *one] for one in captions],
                cells=[
                    ["" if row else name, clock(one.start), clock(one.end), one.text]
                    for row, one in enumerate(captions)
                ],
            )


def embed(
    sounds: Inputs,
    model: Model = None,
    format: FormatOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .json or .csv file, or a folder: embeddings.npy, ids.json, and all that is needed "
            "to go on after an interruption.",
        ),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Eight-bit weights, faster on a CPU; into a folder only.")
    ] = False,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Turn sounds into vectors of length 1 that can be compared with each other and with those of texts.

    Examples:
      slap embed recordings/ --output vectors
      slap embed clip.wav --format json
      slap embed a.wav b.wav --output vectors.csv
    """
    if output is not None and not output.suffix and format is None:
        _embed_into(output, sounds, model, device, int8, quiet)
        return
    if int8:
        raise typer.BadParameter("--int8 needs --output FOLDER")
    with _listening(sounds, model, device, ["sound", "seconds", "embedding"], format, output, quiet) as run:
        rate = run.listener.processor.feature_extractor.sampling_rate
        if run.report.format is Format.csv:  # a column for each number
            run.report.columns[2:] = map(str, range(run.listener.model.config.projection_dim))
        for clip in run.listener.embed(run.items, bar=run.bar):
            if clip.reason is not None:
                run.report.fail(clip.id, clip.reason)
                continue
            vector, seconds = clip.embedding.tolist(), clip.samples / rate
            first = " ".join(f"{value:+.3f}" for value in vector[:_NUMBERS_SHOWN])
            run.report.add(
                {"sound": clip.id, "seconds": seconds, "embedding": vector},
                rows=[[clip.id, seconds, *vector]],
                cells=[[clip.id, clock(seconds), f"{first} ... ({len(vector)} numbers)"]],
            )
    if run.report.format is Format.table and not quiet:
        errors().print("all numbers: --format json, --output FILE.csv or --output FOLDER", style="dim")


def _embed_into(folder: Path, sounds: list[str], model: str | None, device: str | None, int8: bool, quiet: bool):
    """By `hf_slap.embed`, which goes on where it was interrupted."""
    from .. import embed as embed_all

    found, missing = found_sounds(sounds)
    watched = errors().is_terminal and not quiet
    calm()
    result = embed_all([sound.source for sound in found], found_place(model), output=folder, device=device, int8=int8,
                       progress=watched)  # fmt: skip
    result.to_npy(folder)
    with Report(["sound", "seconds"], what="sounds") as report:
        report.done = len(result.dataset)
        for name, reason in [*missing, *result.failed]:
            report.fail(name, reason)
        if not quiet:
            errors().print(f"{result.summary}\n{folder}/embeddings.npy: {len(result.dataset)} rows, named in ids.json")


class _Run(NamedTuple):
    """A model, what it shall hear as (name, path or URL), where results go, and the progress."""

    listener: "Listener"
    items: Iterator[tuple[str, str]]
    report: Report
    bar: Any


@contextmanager
def _listening(
    sounds: list[str],
    model: str | None,
    device: str | None,
    columns: list[str],
    format: Format | None,
    output: Path | None,
    quiet: bool,
) -> Iterator[_Run]:
    found, missing = found_sounds(sounds)
    report = Report(columns, format, output, quiet=quiet)
    with progress("loading the model", quiet=quiet):
        listener = open_listener(model, device)
    with report:
        with progress("listening", len(found), quiet or report.streams_to_terminal) as report.bar:
            for name, reason in missing:
                report.fail(name, reason)
            yield _Run(listener, iter(found), report, report.bar)
