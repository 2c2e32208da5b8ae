"""The `slap` command. `commands.py` lists what it can do; each command's module is imported when it is used."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; default: this process's.

    Returns:
        exit status: 0 all went well, 1 some items failed (they are named on stderr), 2 it could not be started as
        written, 130 interrupted.
    """
    try:
        from .commands import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f'slap needs {error.name}: pip install "hf_slap[cli]"', file=sys.stderr)
        return 2
    return run(sys.argv[1:] if arguments is None else list(arguments))
