"""Weights are read from safetensors and from nothing else, and what is wrong with a file is said in words that help."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")  # what other projects keep weights in
_SEARCH = ("cache_dir", "revision", "subfolder")  # keywords of `from_pretrained` that say where a file lies
_CONVERT = (
    "opening a pickle can run code, so it was not opened; use safetensors: ask for it where the weights come from, or, "
    "if you trust them, convert them with torch.load(..., weights_only=True) and safetensors.torch.save_file"
)


class WeightsError(ValueError):
    """A file of weights that is not read; the message names it, says what is wrong and what to do."""


@contextmanager
def open_weights(path: str | os.PathLike) -> Iterator[Any]:
    """A safetensors file, open for reading by torch.

    Raises:
        WeightsError: missing, empty, cut short, damaged, or something else under that name, such as a pickle.
    """
    try:
        file = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(what_is_wrong(path, error)) from error
    with file:
        yield file


@contextmanager
def only_safetensors(source: str | os.PathLike | None, stem: str = "model", **keywords: Any) -> Iterator[None]:
    """Around a reading of weights by another library, which would also take pickles and says little of what fails.

    Args:
        source: folder or Hub id.
        stem: of the files: "model", or "adapter_model".
        keywords: of `from_pretrained`; those that say where files lie are used.
    Raises:
        WeightsError: see `open_weights`; or there are only pickles.
    """
    folder = Path(source, keywords.get("subfolder") or "") if source is not None and os.path.isdir(source) else None
    if folder is not None and not any(folder.glob(f"{stem}*.safetensors*")):
        names = sorted(path.name for path in folder.glob(f"*{stem}*") if path.suffix in PICKLES)
        if names:
            raise WeightsError(f"{str(source)!r} has {', '.join(names)} and no {stem}.safetensors; {_CONVERT}")
    try:
        yield
    except (SafetensorError, OSError) as error:
        files = _cached(source, stem, keywords) if folder is None else sorted(folder.glob(f"{stem}*.safetensors"))
        for path in files:
            with open_weights(path):
                pass
        if "use_safetensors=True" in str(error):  # transformers, of a repository
            raise WeightsError(f"{str(source)!r} has no {stem}.safetensors; {_CONVERT}") from error
        raise


def refuse_pickles(paths: Iterable[str | os.PathLike] | None) -> None:
    """Files that are about to be read must be safetensors by their names.

    Raises:
        WeightsError: one is not.
    """
    for path in paths or ():
        if Path(path).suffix in PICKLES:
            raise WeightsError(f"{str(path)!r} is a pickle; {_CONVERT}")


def what_is_wrong(path: str | os.PathLike, error: Exception) -> str:
    """The message for a file that safetensors refuses with `error`."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            start = file.read(64)
            file.seek(8)
            header = file.read(min(int.from_bytes(start[:8], "little"), 100_000_000)) if len(start) > 8 else b""
    except OSError:
        return f"{str(path)!r} cannot be read: {error}"
    again = "fetch or write the file again (from the Hub: force_download=True)"
    if not size:
        return f"{str(path)!r} is empty; {again}"
    if start.startswith(b"PK\x03\x04") or (start[0] == 0x80 and start[1:2] in (b"\2", b"\3", b"\4", b"\5")):
        return f"{str(path)!r} is a pickle under the name of a safetensors file; {_CONVERT}"
    if start.startswith(b"version https://git-lfs"):
        return f"{str(path)!r} is a pointer of Git LFS, not the weights; run `git lfs pull`, or fetch it by the hf tool"
    needed = _announced_bytes(start, header)
    if needed is not None and needed > size:
        return f"{str(path)!r} is cut short: {size:,} bytes of at least {needed:,}; {again}"
    return f"{str(path)!r} is no safetensors file, or it is damaged ({error}); {again}"


def _announced_bytes(start: bytes, header: bytes) -> int | None:
    """How long the file would have to be; None where it does not look like safetensors at all."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{":
        return None
    try:
        tensors = json.loads(header) if len(header) == length else {}
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def _cached(source: str | os.PathLike | None, stem: str, keywords: dict) -> list[Path]:
    """The safetensors files of a Hub id that are in the cache."""
    where = {name: keywords[name] for name in _SEARCH if keywords.get(name) is not None}
    options = {"local_files_only": True, "_raise_exceptions_for_missing_entries": False, **where}
    names = [f"{stem}.safetensors"]
    try:
        if source is not None and (index := cached_file(source, f"{stem}.safetensors.index.json", **options)):
            names = sorted(set(json.loads(Path(index).read_text())["weight_map"].values()))
        paths = [cached_file(source, name, **options) for name in names] if source is not None else []
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    return [Path(path) for path in paths if path]
