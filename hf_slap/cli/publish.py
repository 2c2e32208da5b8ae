"""`slap export` and `slap push`: a model on the Hub."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Quiet, complain, errors, show


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run, of a model, or of a LoRA adapter.")],
    folder: Annotated[Path, typer.Argument(help="What will be the repository on the Hub; made.")],
    name: Annotated[str | None, typer.Option(help="Of the model in its card.  \\[default: the folder's]")] = None,
    license: Annotated[str, typer.Option(help="Of the weights, as the Hub names it.")] = "apache-2.0",
    results: Annotated[
        Path | None, typer.Option(help="Numbers of `slap eval`.  \\[default: those in the run, of these weights]")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="A card of your own, with the lines for the results.")] = None,
    credits: Annotated[
        Path | None,
        typer.Option(
            help="What it was trained on, and its licences.  \\[default: CREDITS.md of the model, else from the data]"
        ),
    ] = None,
    base: Annotated[str | None, typer.Option(help="Of an adapter: Hub id of the model that it lies on.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Both towers as ONNX files too, in the folder onnx/.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the folder that goes to the Hub, and check it.

    It holds weights (safetensors), configuration, processor, code, pipelines, card with measured numbers, licence and
    credits. An interpreter that cannot import hf_slap and this one load it, and must hear the same. Look at README.md
    and CREDITS.md before you push.

    Examples:
      slap export runs/tiny my-slap
      slap export runs/tiny my-slap --results evaluation/tiny.json --license cc-by-4.0
      slap export runs/retrieval/adapter my-adapter --base org/slap
    """
    from ..export import export as make

    done = make(
        run, folder, name=name, license=license, results=results, card=card, credits=credits, base=base, force=force,
        tell=_teller(quiet),
    )  # fmt: skip
    if not quiet:
        for note in done.notes:
            errors().print(f"note: {note}", markup=False)
    show(f"{done.folder}: {', '.join(done.tasks)}; licence {license}")
    if done.problems:
        for check, what, todo in done.problems:
            complain(f"check {check}: {what}; {todo}")
        raise typer.Exit(1)
    if onnx:
        from ..onnx import export_onnx

        for file, apart in export_onnx(done.folder, done.folder / "onnx").items():
            show(f"onnx/{file}: its embeddings are {apart:.0e} from the model's")
    show(f"all checks passed; next: slap push {done.folder} organization/{done.folder.name}")


def push(
    folder: Annotated[Path, typer.Argument(help="What `slap export` made.")],
    repository: Annotated[str, typer.Argument(help="organization/name; made when missing.")],
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who may see it, if it is made now.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch; made when missing.  \\[default: main]")] = None,
    tag: Annotated[str | None, typer.Option(help="Name for this version, such as v1.0.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Of the commit.")] = None,
    quiet: Quiet = False,
) -> None:
    """Upload a folder to the Hub in one commit, if it passes all checks.

    The token is that of `hf auth login` or of the environment variable HF_TOKEN; it is never shown. Interrupted,
    nothing was published: run it again, and what arrived is not sent twice.

    Examples:
      slap push my-slap org/my-slap
      slap push my-slap org/my-slap --private --tag v1.0
    """
    from ..push import push as upload

    address = upload(
        folder, repository, private=private, revision=revision, tag=tag, message=message, tell=_teller(quiet)
    )
    show(address)


def _teller(quiet: bool):
    """Says which check or step begins; the bars of transformers would stand between the lines."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    return lambda name: None if quiet else errors().print(name if name == "upload" else f"check {name}")
