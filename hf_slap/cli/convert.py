"""`slap convert`: checkpoints that others published."""

from pathlib import Path
from typing import Annotated

import typer

from .output import Quiet, errors, show


def convert(
    checkpoint: Annotated[Path, typer.Argument(help="The .pth or .pt file.")],
    folder: Annotated[Path, typer.Argument(help="Made: safetensors, configuration, processor.")],
    version: Annotated[
        str | None, typer.Option(help="2022, 2023, clapcap or laion.  \\[default: what the file looks like]")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or Hub id.  \\[default: that of the text tower, from the Hub]")
    ] = None,
    compat: Annotated[
        bool, typer.Option("--compat", help="Hear as Microsoft's code does: random crops, channels laid end to end.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Turn a published CLAP checkpoint into a folder that loads like any other model.

    Every weight is used, or named in conversion.json with the reason why not. The file is read without running code
    that may be in it.

    Examples:
      slap convert CLAP_weights_2023.pth clap-2023
      slap convert clapcap_weights_2023.pth clapcap --tokenizer ./gpt2
      slap convert 630k-audioset-best.pt laion-clap
    """
    from ..conversion import RECORD
    from ..conversion import convert as make

    dropped = make(checkpoint, folder, version=version, tokenizer=tokenizer, compat=compat)
    reasons: dict[str, list[str]] = {}
    for key, reason in dropped.items():
        reasons.setdefault(reason, []).append(key)
    if not quiet:
        for reason, keys in reasons.items():
            errors().print(f"note: {len(keys)} not needed, like {keys[0]} ({reason})", markup=False)
    show(f"{folder}: converted; what was left out is in {RECORD}")
