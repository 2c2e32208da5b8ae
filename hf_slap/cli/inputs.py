"""What a command is given: sounds in every form that a command line can name, and a model."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, TextIO

import typer

from ..sound_files import find_sound_files

if TYPE_CHECKING:
    from ..listening import Listener

_SHIPPED = "slap-nano"

Inputs = Annotated[
    list[str],
    typer.Argument(
        help="Files, folders, quoted globs, URLs, or - for a list on stdin. Sound tracks of videos are read too.",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or Hub id.  \\[default: the model that comes with hf_slap]"),
]


def _usable(device: str | None) -> str | None:
    if device is not None:
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # torch asserts that it was built for the device
            raise typer.BadParameter(f"{device}: not usable here; torch says: {error}") from error
    return device


Device = Annotated[
    str | None, typer.Option(help="Such as cpu or cuda.  \\[default: cuda where there is one]", callback=_usable)
]


class Sound(NamedTuple):
    """A sound to listen to.

    Args:
        name: for people: as it was written, or the path as it was found.
        source: path or URL, as `load_waveform` takes it.
    """

    name: str
    source: str


def find_sounds(inputs: Iterable[str], stdin: TextIO | None = None) -> tuple[list[Sound], list[tuple[str, str]]]:
    """Everything that a command line names, in its order, each sound once; folders and globs in order of their paths.

    Args:
        inputs: files, folders, globs, http(s) and file URLs; "-": the same, one a line (or between NULs), from stdin.
        stdin: default: this process's.
    Returns:
        the sounds, and (name, reason) of inputs where nothing was found. Files are not opened.
    """
    found: dict[str, Sound] = {}
    missing: list[tuple[str, str]] = []
    for text in _with_lists(inputs, stdin):
        if "://" in text:
            found.setdefault(text, Sound(text, text))
            continue
        try:
            paths = find_sound_files(text)[1]
        except FileNotFoundError as error:
            missing.append((text, str(error)))
            continue
        for path in paths:
            found.setdefault(os.path.realpath(path), Sound(path, path))
    return list(found.values()), missing


def _with_lists(inputs: Iterable[str], stdin: TextIO | None) -> Iterable[str]:
    for text in inputs:
        if text != "-":
            yield text
            continue
        listed = (stdin or sys.stdin).read()
        yield from (line for line in (listed.split("\0") if "\0" in listed else listed.splitlines()) if line.strip())


def open_place(model: str | None) -> str:
    """The folder or Hub id of a model; None and "slap-nano": the one that comes with this package."""
    from .. import bundled

    if model is None or (model == _SHIPPED and not os.path.isdir(model)):
        return bundled(_SHIPPED)
    return os.path.expanduser(model)


def found_place(model: str | None) -> str:
    """As `open_place`, where a model must be; says at once that there is none, where transformers tries for minutes."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    from ..listening import check_place

    place = open_place(model)
    check_place(place)
    try:
        if not os.path.isdir(place) and not isinstance(try_to_load_from_cache(place, "config.json"), str):
            HfApi().model_info(place, timeout=10)
    except Exception as error:  # of the name, the network or the Hub
        raise OSError(
            f"there is no folder {place!r}, and as a model on the Hub it cannot be loaded: {error}"
        ) from error
    return place


def open_listener(model: str | None, device: str | None) -> "Listener":
    """The model that is asked for."""
    from ..listening import Listener
    from .output import calm

    calm()
    place = found_place(model)
    try:
        return Listener(place, device=device)
    except OSError as error:  # some say only that there is no network
        raise OSError(f"model {place!r} cannot be loaded: {error}") from error


def found_sounds(inputs: list[str]) -> tuple[list[Sound], list[tuple[str, str]]]:
    """As `find_sounds`, where there must be any."""
    sounds, missing = find_sounds(inputs)
    if not sounds:
        more = f"; nor are {len(missing) - 1} others there" if len(missing) > 1 else ""
        raise typer.BadParameter(missing[0][1] + more if missing else "the list of sounds is empty")
    return sounds, missing


def label_names(given: Iterable[str]) -> list[str]:
    """From texts between commas and files of lines, each label once."""
    names: list[str] = []
    for text in given:
        if text.endswith(".txt") or os.path.isfile(text):
            try:
                parts = Path(text).expanduser().read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise typer.BadParameter(f"--labels {text}: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise typer.BadParameter(f"--labels {text}: not UTF-8; save it as UTF-8, one label a line") from error
        else:
            parts = text.split(",")
        names += [part.strip() for part in parts if part.strip()]
    if not names:
        raise typer.BadParameter(f"--labels {' '.join(given)!r} names no label")
    return list(dict.fromkeys(names))
