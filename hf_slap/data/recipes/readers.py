"""Readers that several recipes share: tables, JSON, parquet, tar files, sound files. They stream where they can."""

import csv
import glob
import json
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from .base import SOUND_EXTENSIONS

csv.field_size_limit(1 << 24)


def table(
    path: Path,
    columns: str = "",
    delimiter: str = ",",
    header: str | None = None,
    quoting: int = csv.QUOTE_MINIMAL,
    comment: str | None = None,
) -> Iterator[dict]:
    """The rows of a table as text; cells that are missing are "".

    Args:
        path: UTF-8, with a byte order mark or without; Latin-1 where it is not UTF-8.
        columns: names that must be there, separated by blanks.
        header: names of a table that has none.
        comment: lines that begin with it are skipped.
    Raises:
        ValueError: columns are missing.
    """
    with open(path, encoding=_encoding(path), newline="") as file:
        lines = (line for line in file if not (comment and line.startswith(comment)))
        names = header.split() if header else None
        reader = csv.DictReader(
            lines, names, delimiter=delimiter, quoting=quoting, skipinitialspace=True, restkey="", restval=""
        )
        _check_columns(path, columns, reader.fieldnames or [])
        yield from reader


def json_rows(path: Path, columns: str = "") -> Iterator[dict]:
    """The objects of a file: one per line in .jsonl (streamed); in .json a list, or {"data": list}, read as a whole.

    Raises:
        ValueError: no JSON, or `columns` are missing from the first object.
    """
    rows = _lines(path) if path.suffix == ".jsonl" else read_json(path)
    for number, row in enumerate(rows["data"] if isinstance(rows, dict) else rows):
        if not number:
            _check_columns(path, columns, list(row))
        yield row


def read_json(path: Path):
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} is no JSON: {problem}") from None


def parquet(folder: Path, pattern: str, columns: str = "") -> Iterator[dict]:
    """The rows of all parquet files that match, a batch in memory at a time. `columns`: those that must be there."""
    import pyarrow.parquet

    for path in matching(folder, pattern):
        file = pyarrow.parquet.ParquetFile(path)
        _check_columns(path, columns, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=64):
            yield from batch.to_pylist()


def webdataset(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: content}) of a tar file; neighbours whose names agree up to the first dot are one clip.

    Nothing is unpacked to the disk: names, links and devices in it reach no file. Sparse members are passed over.

    Raises:
        ValueError: no tar file, or one that is cut off.
    """
    try:
        yield from _tar_clips(path)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, TypeError) as problem:
        # TypeError: tarfile's, of a gzip header that ends too early
        raise ValueError(f"{path} is no tar file, or is cut off: {problem}") from None


def _tar_clips(path: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, parts = None, {}
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if not member.isfile() or member.issparse():  # a hole of any length costs no byte of the file
                continue
            name = PurePosixPath(member.name)
            stem, _, extension = name.name.partition(".")
            current = str(name.parent / stem)
            if current != key and parts:
                yield key, parts
                parts = {}
            key = current
            parts[extension.lower()] = archive.extractfile(member).read()
    if parts:
        yield key, parts


def sounds(folder: Path, pattern: str = "**/*") -> Iterator[str]:
    """Paths, below the folder, of the sound files that match, sorted."""
    for path in matching(folder, pattern):
        if path.suffix.lower() in SOUND_EXTENSIONS:
            yield path.relative_to(folder).as_posix()


def matching(folder: Path, pattern: str) -> list[Path]:
    """Files that match a glob pattern below a folder, sorted."""
    found = glob.glob(os.path.join(glob.escape(str(folder)), pattern), recursive=True)
    return [Path(path) for path in sorted(found) if os.path.isfile(path)]


def first_folder(folder: Path, *names: str) -> str:
    """The first of the named sub-folders that exists, with a "/" after it; "" where none does."""
    return next((f"{name}/" for name in names if (folder / name).is_dir()), "")


def named_list(text: str) -> list[str]:
    """The items of a list that a table holds as text: "['a', 'b']", '["a"]', or "a, b"."""
    quoted = re.findall(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"", text) if text.strip().startswith("[") else []
    items = [one or other for one, other in quoted] or text.strip(" []").split(",")
    return [item.strip() for item in items if item.strip()]


def _lines(path: Path) -> Iterator[dict]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as problem:
                    raise ValueError(f"{path}, line {number} is no JSON object: {problem}") from None


def _check_columns(path: Path, wanted: str, found: list[str]) -> None:
    if missing := [name for name in wanted.split() if name not in found]:
        raise ValueError(f"{path} has no column {missing}; its columns are {list(found)}, expected {wanted.split()}")


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        try:
            for line in file:
                line.decode("utf-8")
        except UnicodeDecodeError:
            return "latin-1"
    return "utf-8-sig"
