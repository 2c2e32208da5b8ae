"""What an index knows, in one SQLite file: sounds by their content, the files that hold them, and the windows of each.

    files (path, size, time, reason)  ->  sounds (content)  ->  windows (start, end, vector)

Every change is a transaction: a process that is killed, or a machine that loses power, leaves what was committed. Any
number of processes read and write; writers take turns.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FILE_NAME = "library.sqlite"
BLOCK_ROWS = 4096  # windows that are read at once
KEEP_SECONDS = 30 * 86_400.0  # vectors of vanished sounds are kept, for a disk that comes back or a file that turns up
_BUSY_SECONDS = 60.0  # a writer waits so long for others, whose transactions take milliseconds
_MANY = 500  # values in one "IN (...)"
_PAGE_BYTES = 16_384  # of vectors of 2 KB, seven fit; of SQLite's default pages each would waste half a one
_END = (1 << 63) - 1  # no id is larger
_VECTOR = np.dtype("<f2")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS folders (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sounds (
    id INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL UNIQUE, seconds REAL NOT NULL, vanished REAL);
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL,
    sound INTEGER REFERENCES sounds ON DELETE SET NULL, reason TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS files_of_sound ON files (sound);
CREATE TABLE IF NOT EXISTS windows (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sound INTEGER NOT NULL REFERENCES sounds ON DELETE CASCADE,
    start REAL NOT NULL, stop REAL NOT NULL, vector BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS windows_of_sound ON windows (sound);
CREATE TABLE IF NOT EXISTS segments (
    file TEXT PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, windows INTEGER NOT NULL) WITHOUT ROWID;
"""
_LISTED = """
CREATE TEMP TABLE IF NOT EXISTS listed (path TEXT PRIMARY KEY, size INTEGER, modified INTEGER) WITHOUT ROWID;
CREATE TEMP TABLE IF NOT EXISTS gone (path TEXT PRIMARY KEY, sound INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS temp.gone_of_sound ON gone (sound);
"""


class FileState(NamedTuple):
    """A file as it lies there: its absolute path, bytes, and time of its last change in nanoseconds."""

    path: str
    size: int
    modified: int


class Sound(NamedTuple):
    """A sound that was listened to.

    Args:
        content: digest of the file's bytes.
        seconds: its length.
        spans: (windows, 2), start and end of each in seconds.
        vectors: (windows, P), unit norm.
    """

    content: bytes
    seconds: float
    spans: Sequence[tuple[float, float]]
    vectors: np.ndarray


class Segment(NamedTuple):
    """A file of the neighbour index: its windows have ids from `first` to `last`; `windows` of them were there."""

    file: str
    first: int
    last: int
    windows: int


class Store:
    """The SQLite file of an index.

    Args:
        folder: of the index.
        create: make it when it is missing.
    Raises:
        FileNotFoundError: there is none, and none is to be made.
        ValueError: the file is damaged, or no index.
    """

    def __init__(self, folder: Path, create: bool = False):
        self.path = folder / FILE_NAME
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        none = FileNotFoundError(f"no index in {str(folder)!r}; make one with `slap index FOLDER` or `.update(folder)`")
        if not create and not self.path.exists():
            raise none
        self._lock = threading.RLock()
        # Threads that read ahead ask too; `_lock` makes them take turns.
        self._db = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._rows("PRAGMA foreign_keys = ON")
            if create:
                self._rows(f"PRAGMA page_size = {_PAGE_BYTES}")  # only a new file takes it
                with self.transaction():
                    self._make(_SCHEMA)
            if not self._value("SELECT 1 FROM sqlite_master WHERE name = 'facts'"):
                raise none  # who was making it was killed
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """All that happens inside is written, or nothing of it. "DEFERRED" ones do not keep others from writing."""
        with self._lock, self._named_errors():
            self._db.execute(f"BEGIN {kind}")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _make(self, schema: str) -> None:
        for statement in filter(str.strip, schema.split(";")):
            self._db.execute(statement)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:  # the disk is full, cannot be written, another writer takes for ever
            raise OSError(f"{str(self.path)!r}: {error}") from error
        except sqlite3.DatabaseError as error:
            folder = str(self.path.parent)
            raise ValueError(
                f"{str(self.path)!r} is damaged or no index ({error}); delete {folder!r} and index again"
            ) from error

    def _rows(self, query: str, values: Sequence = ()) -> list[tuple]:
        with self._lock, self._named_errors():
            return self._db.execute(query, values).fetchall()

    def _value(self, query: str, values: Sequence = ()) -> Any:
        row = self._rows(query, values)
        return row[0][0] if row else None

    # -------------------------------------------------------------------------------------------- facts

    def fact(self, name: str) -> str | None:
        return self._value("SELECT value FROM facts WHERE name = ?", (name,))

    def set_fact(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def folders(self) -> list[str]:
        """Folders that were indexed."""
        return [path for (path,) in self._rows("SELECT path FROM folders ORDER BY path")]

    def counts(self) -> dict[str, int | float]:
        """Of files that can be heard, their different sounds, the windows and seconds of these, and failed files."""
        files, failed = self._rows("SELECT count(sound), count(reason) FROM files")[0]
        sounds, seconds = self._rows(f"SELECT count(*), total(seconds) FROM sounds WHERE {_HELD}")[0]
        windows = self._value(f"SELECT count(*) FROM windows JOIN sounds ON sounds.id = windows.sound WHERE {_HELD}")
        return {"files": files, "sounds": sounds, "windows": windows, "seconds": seconds, "failed": failed}

    def failures(self) -> list[tuple[str, str]]:
        """(path, reason) of files that could not be heard."""
        return self._rows("SELECT path, reason FROM files WHERE reason IS NOT NULL ORDER BY path")

    # -------------------------------------------------------------------------------------------- an update

    def compare(self, found: Iterable[FileState], folders: Sequence[str]) -> tuple[int, int]:
        """Notes what lies on the disk; the files of `folders` that do not are taken out. Their sounds stay for a while.

        Args:
            found: files, in any order; each is kept in a temporary table, not in memory.
            folders: absolute paths that were searched to the bottom.
        Returns:
            the numbers of files that are as they were, and that are new, changed or failed before.
        Raises:
            FileNotFoundError: nothing is left of a folder that had files.
        """
        with self._lock:
            self._make(_LISTED)
            with self.transaction("DEFERRED"):  # of temporary tables alone, while a folder is searched through
                self._db.execute("DELETE FROM listed")
                self._db.execute("DELETE FROM gone")
                self._db.executemany("INSERT OR REPLACE INTO listed VALUES (?, ?, ?)", found)
            with self.transaction():
                for folder in folders:
                    self._refuse_an_empty(folder)
                    self._db.execute("INSERT OR IGNORE INTO folders VALUES (?)", (folder,))
                    missing = f"FROM files WHERE {_INSIDE} AND path NOT IN (SELECT path FROM listed)"
                    self._db.execute(f"INSERT OR IGNORE INTO gone SELECT path, sound {missing}", _inside(folder))
                self._db.execute("DELETE FROM files WHERE path IN (SELECT path FROM gone)")
            same = self._value(
                "SELECT count(*) FROM listed JOIN files USING (path, size, modified) WHERE files.reason IS NULL"
            )
            return same, self._value("SELECT count(*) FROM listed") - same

    def _refuse_an_empty(self, folder: str) -> None:
        had = self._value(f"SELECT count(*) FROM files WHERE {_INSIDE}", _inside(folder))
        if had and not self._value(f"SELECT count(*) FROM listed WHERE {_INSIDE}", _inside(folder)):
            raise FileNotFoundError(
                f"no sound file is left in {folder!r}, of which the index holds {had}; is its disk connected? "
                f"If they are gone for good: `slap index --forget {folder}` or `.forget({folder!r})`"
            )

    def pending(self) -> Iterator[FileState]:
        """Files that `compare` found new, changed or failed before, in order of their paths."""
        after = ""
        while True:
            rows = self._rows(
                "SELECT listed.path, listed.size, listed.modified FROM listed LEFT JOIN files USING (path) "
                "WHERE listed.path > ? AND (files.path IS NULL OR files.reason IS NOT NULL "
                "OR files.size != listed.size OR files.modified != listed.modified) ORDER BY listed.path LIMIT 1000",
                (after,),
            )
            yield from map(FileState._make, rows)
            if not rows:
                return
            after = rows[-1][0]

    def knows(self, content: bytes) -> bool:
        """Whether a sound with this content has its vectors here."""
        return bool(self._value("SELECT 1 FROM sounds WHERE content = ?", (content,)))

    def add_sound(self, sound: Sound) -> None:
        """Keeps a sound and its windows; one that is there already is left alone. Inside a transaction."""
        done = self._db.execute(
            "INSERT OR IGNORE INTO sounds (content, seconds) VALUES (?, ?)", (sound.content, sound.seconds)
        )
        if done.rowcount:
            vectors = np.ascontiguousarray(sound.vectors, _VECTOR)
            rows = [
                (done.lastrowid, *span, vector.tobytes()) for span, vector in zip(sound.spans, vectors, strict=True)
            ]
            self._db.executemany("INSERT INTO windows (sound, start, stop, vector) VALUES (?, ?, ?, ?)", rows)

    def add_file(self, file: FileState, content: bytes) -> str:
        """Says which sound lies in a file, and returns what this is: "added", "changed", "moved", "copied" or "touched"
        (the time changed, the content did not). Inside a transaction.
        """
        (sound,) = self._db.execute("SELECT id FROM sounds WHERE content = ?", (content,)).fetchone()
        before = self._db.execute("SELECT sound FROM files WHERE path = ?", (file.path,)).fetchone()
        held = self._db.execute("SELECT 1 FROM files WHERE sound = ?", (sound,)).fetchone()
        gone = self._db.execute("SELECT path FROM gone WHERE sound = ? LIMIT 1", (sound,)).fetchone()
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, NULL)", (*file, sound))
        if before and before[0] is not None:
            return "touched" if before[0] == sound else "changed"
        if gone:
            self._db.execute("DELETE FROM gone WHERE path = ?", gone)
            return "moved"
        return "copied" if held else "added"

    def add_failure(self, file: FileState, reason: str) -> None:
        """Says why a file cannot be heard. Inside a transaction."""
        self._db.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, NULL, ?)", (*file, reason))

    def finish_update(self) -> int:
        """Notes which sounds have no file any more, drops those that have had none for long.

        Returns:
            the number of files that `compare` missed and that turned up nowhere else.
        """
        now = time.time()
        with self.transaction():
            self._db.execute(f"UPDATE sounds SET vanished = ? WHERE vanished IS NULL AND NOT {_HELD}", (now,))
            self._db.execute(f"UPDATE sounds SET vanished = NULL WHERE vanished IS NOT NULL AND {_HELD}")
            self._db.execute("DELETE FROM sounds WHERE vanished < ?", (now - KEEP_SECONDS,))
        return self._value("SELECT count(*) FROM gone")

    def forget(self, path: str) -> int:
        """Takes out a file, or a folder with all that lies in it, and the sounds that no other file holds.

        Returns:
            the number of files.
        """
        here, values = f"path = ? OR {_INSIDE}", (path, *_inside(path))
        with self._lock:
            self._make(_LISTED)
            with self.transaction():
                self._db.execute("DELETE FROM gone")
                self._db.execute(f"INSERT INTO gone SELECT path, sound FROM files WHERE {here}", values)
                self._db.execute(f"DELETE FROM folders WHERE {here}", values)
                count = self._db.execute(f"DELETE FROM files WHERE {here}", values).rowcount
                self._db.execute(f"DELETE FROM sounds WHERE id IN (SELECT sound FROM gone) AND NOT {_HELD}")
        return count

    # -------------------------------------------------------------------------------------------- vectors

    def scan(self, after: int = 0, last: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Ids (n,) and vectors (n, P) float32 of the windows with ids above `after`, up to `last`, in blocks."""
        while True:
            rows = self._rows(
                "SELECT id, vector FROM windows WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                (after, _END if last is None else last, BLOCK_ROWS),
            )
            if rows:
                yield _ids_and_vectors(rows)
            if len(rows) < BLOCK_ROWS:
                return
            after = rows[-1][0]

    def vectors(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) and vectors (n, P) float32 of those of the given windows that are there."""
        rows = []
        for part in _parts(ids):
            rows += self._rows(f"SELECT id, vector FROM windows WHERE id IN ({_marks(part)})", part)
        return _ids_and_vectors(rows) if rows else (np.zeros(0, np.int64), np.zeros((0, 0), np.float32))

    def places(self, ids: Sequence[int]) -> dict[int, tuple[int, float, float, list[str]]]:
        """The sound, start, end and the paths of each of the given windows that some file holds."""
        found: dict[int, tuple[int, float, float, list[str]]] = {}
        for part in _parts(ids):
            for window, sound, start, stop, path in self._rows(
                "SELECT windows.id, windows.sound, start, stop, path "
                "FROM windows JOIN files ON files.sound = windows.sound "
                f"WHERE windows.id IN ({_marks(part)}) ORDER BY path",
                part,
            ):
                found.setdefault(window, (sound, start, stop, []))[3].append(path)
        return found

    # -------------------------------------------------------------------------------------------- segments

    def segments(self) -> list[Segment]:
        """Files of the neighbour index, in order of their windows."""
        return [Segment(*row) for row in self._rows("SELECT file, first, last, windows FROM segments ORDER BY first")]

    def set_segments(self, segments: Sequence[Segment]) -> None:
        with self.transaction():
            self._db.execute("DELETE FROM segments")
            self._db.executemany("INSERT INTO segments VALUES (?, ?, ?, ?)", segments)

    def count_windows(self, after: int = 0, last: int | None = None) -> int:
        """Windows with ids above `after`, up to `last`. Vectors are not read: an index without them is."""
        return self._value(
            "SELECT count(*) FROM windows INDEXED BY windows_of_sound WHERE +id > ? AND +id <= ?",
            (after, _END if last is None else last),
        )


_HELD = "EXISTS (SELECT 1 FROM files WHERE files.sound = sounds.id)"
_INSIDE = "(path >= ? AND path < ?)"


def _inside(folder: str) -> tuple[str, str]:
    """Bounds of the paths inside a folder, for `_INSIDE`."""
    folder = folder.rstrip(os.sep)
    return folder + os.sep, folder + chr(ord(os.sep) + 1)


def _ids_and_vectors(rows: list[tuple[int, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.array([row[0] for row in rows], np.int64)
    values = np.frombuffer(b"".join(row[1] for row in rows), _VECTOR)
    return ids, values.reshape(len(rows), -1).astype(np.float32)


def _parts(ids: Sequence[int]) -> Iterator[list[int]]:
    ids = [int(number) for number in ids]
    return (ids[start : start + _MANY] for start in range(0, len(ids), _MANY))


def _marks(values: Sequence) -> str:
    return ",".join("?" * len(values))
