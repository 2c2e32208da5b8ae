"""Arrays kept by the content they were computed from: what was computed once is never computed again."""

import json
import os
from pathlib import Path

import numpy as np


class ArrayCache:
    """Arrays by key in one growing file, with an index of lines beside it.

    An array is written and flushed before its line, so that after a crash every line's array is whole. One process
    writes at a time.

    Args:
        path: of the pair of files, without their endings (.bin and .jsonl).
    """

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._data, self._lines = path.with_suffix(".bin"), path.with_suffix(".jsonl")
        self._places: dict[str, tuple[int, str, list[int]]] = {}
        self._data.touch()
        size = self._data.stat().st_size
        if self._lines.exists():
            text = self._lines.read_text()
            for line in text[: text.rfind("\n") + 1].splitlines():
                key, start, dtype, shape = json.loads(line)
                if start + np.dtype(dtype).itemsize * int(np.prod(shape)) <= size:
                    self._places[key] = (start, dtype, shape)
            if not text.endswith("\n") and text:
                self._lines.write_text(text[: text.rfind("\n") + 1])

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> np.ndarray:
        start, dtype, shape = self._places[key]
        with open(self._data, "rb") as file:
            file.seek(start)
            content = file.read(np.dtype(dtype).itemsize * int(np.prod(shape)))
        return np.frombuffer(content, dtype).reshape(shape)

    def put(self, key: str, array: np.ndarray) -> None:
        """Keeps an array; a key that is there already is left alone."""
        if key in self._places:
            return
        array = np.ascontiguousarray(array)
        with open(self._data, "ab") as file:
            start = file.seek(0, os.SEEK_END)
            file.write(array.tobytes())
        with open(self._lines, "a") as lines:
            lines.write(json.dumps([key, start, array.dtype.str, list(array.shape)]) + "\n")
        self._places[key] = (start, array.dtype.str, list(array.shape))
