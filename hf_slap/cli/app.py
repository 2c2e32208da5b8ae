"""The command app: a page in the browser."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .inputs import Device, Model, open_place
from .listen import open_listener
from .output import Quiet, errors, progress

if TYPE_CHECKING:
    from ..listening import Listener
    from ..search import SoundIndex


def app(
    model: Model = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            "-i",
            help="Show similar sounds from this index.  \\[default: that of slap index, if there is one]",
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="0.0.0.0 serves other machines too.  \\[default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="  \\[default: the first free one from 7860 on]")
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    space: Annotated[
        Path | None, typer.Option(help="Do not serve: write a folder that is a Hugging Face Space of this model.")
    ] = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """A page in the browser: drop a sound or record one, and see labels, a caption, a timeline and similar sounds.

    Everything runs on this machine, and nothing is sent elsewhere.

    Examples:
      slap app --open
      slap app --model org/slap --index field-index --port 8000
      slap app --model runs/tiny/model --space my-space
    """
    if space is not None:
        from ..space import make_space

        names = make_space(space, model if model is None else open_place(model))
        if not quiet:
            errors().print(f"{space}: {', '.join(names)}\ntry it: python {space / 'app.py'}", style="dim")
        return
    with progress("loading the model", quiet=quiet):
        from ..app import build_page, serve

        listener = open_listener(model, device)
        page = build_page(listener, index=_open_index(index, listener, quiet))
    serve(page, host, port, open_browser=open_browser)


def _open_index(folder: Path | None, listener: "Listener", quiet: bool) -> "SoundIndex | None":
    """The index, or none; one that was asked for must be there and be of this model."""
    from ..search import SoundIndex

    index = SoundIndex(folder, listener.model, listener.processor)
    try:
        index.search(text="a sound", k=1)
    except (FileNotFoundError, ValueError) as error:
        if folder is not None:
            raise
        if isinstance(error, ValueError) and not quiet:
            errors().print(f"no similar sounds: {error}", style="dim")
        return None
    return index
