"""The command timeline: what happens when in a recording."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .inputs import Device, Inputs, Model, found_sounds, label_names, open_listener
from .output import Format, Quiet, Report, bar_text, clock, errors, progress

if TYPE_CHECKING:
    from ..timeline import Timeline


def timeline(
    sounds: Inputs,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            "--labels",
            "-l",
            help="Texts between commas, or a .txt file with one a line. May be repeated.  \\[default: captions]",
        ),
    ] = None,
    model: Model = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Score from which a label counts as heard.  \\[default: 0.5]")
    ] = None,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Labels compete: mostly one at a time. Else each is heard or not.")
    ] = False,
    template: Annotated[
        list[str] | None,
        typer.Option(help='Makes a text of a label. Several are averaged.  \\[default: "This is a sound of {}."]'),
    ] = None,
    shortest: Annotated[
        float | None, typer.Option(min=0, help="Seconds of the shortest segment.  \\[default: 0.5, captions 3]")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="Print the results so.  \\[default: table, or nothing with --output]"),
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help="Write a file: a picture (.png .svg .pdf), subtitles (.vtt), labels for Audacity (.txt), .json or "
            ".csv. May be repeated; {} stands for the sound's name, where there are several.",
        ),
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """What happens when in a recording of any length.

    With --labels, where each of them is heard; without, a caption for each stretch that sounds alike. Hours of sound
    take no more memory than minutes.

    Examples:
      slap timeline walk.wav --labels "footsteps, a dog, a car"
      slap timeline film.mp4 --output film.png --output film.vtt
      slap timeline night.flac -l "an owl, rain" -o owls.txt     for Audacity
      slap timeline recordings/ -l classes.txt --format csv > events.csv
      slap timeline recordings/ -o "timelines/{}.png"
    """
    names = label_names(labels) if labels else None
    found, missing = found_sounds(sounds)
    paths = _checked(output or [], len(found))
    stems = _stems([sound.name for sound in found]) if paths else {}
    settings: dict[str, Any] = {"multi_label": not exclusive, "min_seconds": shortest}
    settings |= {"template": template} if template else {}
    settings |= {} if threshold is None else {"threshold": threshold}
    columns = ["sound", "start", "end", *(["label", "score"] if names else ["caption"])]
    with progress("loading the model", quiet=quiet):
        from ..modeling.audio_slap import AudioError
        from ..timeline import timeline as listen

        listener = open_listener(model, device)
    with Report(columns, format) as report:
        for name, reason in missing:
            report.fail(name, reason)
        for sound in found:
            try:
                with progress(sound.name, quiet=quiet) as bar:
                    heard = _teller(bar, sound.source)
                    result = listen(listener, None, sound.source, names, name=sound.name, progress=heard, **settings)
                written = [str(result.save(_path_of(path, stems[sound.name]))) for path in paths]
            except (AudioError, OSError, RuntimeError) as error:
                report.fail(sound.name, str(error) or type(error).__name__)
                continue
            record, rows, cells = _as_results(result)
            report.add(record, rows, cells if format or not paths else [])
            if written and not quiet:
                errors().print(f"wrote {', '.join(written)}", style="dim")
            if not result.segments and not quiet:
                what = f"none of the labels scores {result.threshold:g}" if names else "nothing is heard"
                if names and result.scores.any():
                    best = result.scores.max(0)  # of each label
                    what += f"; the best is {names[best.argmax()]!r} with {best.max():.2f}, see --threshold"
                errors().print(f"{sound.name}: {what}", style="dim")


def _as_results(found: "Timeline") -> tuple[dict, list, list]:
    """What a report takes: a record, rows and cells."""
    record = found.to_dict()
    rows = [[found.name, *one.values()] for one in record["segments"]]
    cells = [
        [
            "" if row else found.name,
            clock(one.start),
            clock(one.end),
            one.label,
            *map(bar_text, one[3:] * bool(found.labels)),
        ]
        for row, one in enumerate(found.segments)
    ]
    return record, rows, cells


def _teller(bar: Any, source: str) -> Callable[[str, float], None]:
    """Says how far it is: "listening 12:40 of 2:00:00"."""
    import soundfile

    try:
        whole = f" of {clock(soundfile.info(source).duration)}"
    except (soundfile.LibsndfileError, OSError):  # a video, a URL
        whole = ""
    return lambda what, seconds: bar.set_postfix_str(f"{what} {clock(seconds)}{whole}")


def _checked(paths: list[Path], sounds: int) -> list[Path]:
    """Paths of files to write, all of which can be written.

    Raises:
        typer.BadParameter: a suffix that means nothing, or one file for several sounds.
    """
    from ..timeline import SUFFIXES

    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise typer.BadParameter(f"--output {path}: accepted are files that end in {' '.join(SUFFIXES)}")
        if sounds > 1 and "{}" not in str(path):
            raise typer.BadParameter(
                f'--output {path}: there are {sounds} sounds; write {{}} where their names go, as in "{{}}.png"'
            )
    return paths


def _stems(sounds: list[str]) -> dict[str, str]:
    """What {} stands for: names without suffix, with it where the suffix is all that differs.

    Raises:
        typer.BadParameter: files of the same name, in several folders.
    """
    short = Counter(Path(sound).stem for sound in sounds)
    stems = {sound: Path(sound).stem if short[Path(sound).stem] == 1 else Path(sound).name for sound in sounds}
    if twice := [stem for stem, count in Counter(stems.values()).items() if count > 1]:
        raise typer.BadParameter(f"--output: several sounds are called {twice[0]!r}; give one folder at a time")
    return stems


def _path_of(path: Path, stem: str) -> Path:
    """Where a sound's file goes; folders are made."""
    path = Path(str(path).replace("{}", stem))
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
