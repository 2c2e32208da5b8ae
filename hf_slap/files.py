"""Files that are there in full or not at all, and reading those that were cut short."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

UNFINISHED = ".writing-"  # begins the name of a file that is still being written, or was left by a crash


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file beside, flushes it to the disk and renames it: whenever the power fails, `path` is whole or absent.

    Args:
        path: of the file; its folder exists.
        write: gets the file, open for writing bytes.
    """
    beside = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)  # gives back the space that was too little
        raise
    if os.name != "nt":  # Windows cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read_json_lines(path: Path) -> list:
    """The values of a file that grows by lines of JSON, less a torn last one; none where there is no file."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
