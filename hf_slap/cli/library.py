"""The commands for a library of sounds: index, search."""

import os
from pathlib import Path
from typing import Annotated

import typer

from .inputs import Device
from .output import Format, FormatOption, OutputOption, Quiet, Report, calm, clock, complain, errors, progress

Index = Annotated[
    Path | None, typer.Option("--index", "-i", help="Folder of the index.  \\[default: one for all you have]")
]

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or Hub id.  \\[default: the index's own; of a new one hf_slap's]"),
]


def index(
    folders: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders and files.  \\[default: the folders indexed before]",
            show_default=False,
        ),
    ] = None,
    index: Index = None,
    model: Model = None,
    window: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds of a stretch of a long file, when an index is made.  \\[default: 10]"),
    ] = None,
    forget: Annotated[
        list[str] | None, typer.Option(help="Take a file or folder out of the index. May be repeated.")
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Make folders of sounds searchable, or bring their index up to date.

    Only what is new or changed is listened to; moved and copied files are known by their content, and what is gone is
    taken out. It may be interrupted at any time, and goes on when it is run again. Files that cannot be read are named
    and left out; the exit status is then 1.

    Examples:
      slap index ~/sounds ~/recordings
      slap index                        what was indexed before
      slap index recordings/ --index field-index --window 5
      slap index --forget ~/old-sounds
    """
    from ..search import SoundIndex

    calm()
    with SoundIndex(index, model, device=device, window_seconds=window) as library:
        for path in forget or []:
            count = library.forget(path)
            errors().print(f"{count} files forgotten: {path}", markup=False)
        if forget and not folders:
            return
        report = library.update(folders or None, progress=errors().is_terminal and not quiet)
        for path, reason in report.failed:
            complain(reason if path in reason else f"{path}: {reason}")
        if not quiet:
            about = library.describe()
            print(report.summary)
            print(
                f"the index now holds {about['files']} files, {clock(about['seconds'])} of sound, in "
                f"{about['bytes'] / 1e6:.1f} MB: {about['index']}"
            )
        if report.failed:
            raise typer.Exit(1)


def search(
    text: Annotated[str | None, typer.Argument(help="What you look for, in words.", show_default=False)] = None,
    like: Annotated[
        str | None, typer.Option(metavar="SOUND", help="Look for what sounds like this file or URL.")
    ] = None,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="Results.")] = 10,
    per_file: Annotated[int, typer.Option(min=1, help="At most so many stretches of one file.")] = 3,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every window, however many there are.")] = False,
    index: Index = None,
    model: Model = None,
    format: FormatOption = None,
    output: OutputOption = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Find sounds by words, or by an example.

    The score is the cosine of the two embeddings: compare scores of one search with each other, not of two searches.

    Examples:
      slap search "rain on a tin roof"
      slap search --like clip.wav --top 20
      slap search "a dog barks" --format json | jq -r ".[].path"
    """
    if (text is None) == (like is None):
        raise typer.BadParameter("say what you look for in words, or give an example with --like SOUND")
    report = Report(_COLUMNS, format, output, what="matches", quiet=quiet)
    from ..search import SoundIndex

    calm()
    with SoundIndex(index, model, device=device) as library, progress("searching", quiet=quiet):
        found = library.search(text, like, top, per_file=per_file, exact=exact)
    with report:
        for match in found:
            record = {"score": match.score, "path": match.path, "start": match.start, "end": match.end}
            report.add(
                {**record, "copies": list(match.copies)},
                rows=[list(record.values())],
                cells=[[match.score, _near(match.path), clock(match.start), clock(match.end)]],
            )
        if not found and report.format is Format.table and not quiet:
            errors().print("the index holds no sounds")


_COLUMNS = ["score", "path", "start", "end"]


def _near(path: str) -> str:
    """A path as one would write it from here."""
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else path
