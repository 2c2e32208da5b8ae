"""What is committed stays, whoever else writes and whenever a process is killed."""

import os
import signal
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from processes import start

from hf_slap.search import store as module
from hf_slap.search.store import FileState, Sound, Store

SPANS = [(0.0, 8.0), (8.0, 13.5)]


def sound(number: int, windows: int = 2) -> Sound:
    vectors = np.random.default_rng(number).normal(size=(windows, 5)).astype(np.float32)
    return Sound(number.to_bytes(16, "big"), 13.5, SPANS[:windows], vectors / np.linalg.norm(vectors, axis=1)[:, None])


def keep(store: Store, number: int) -> None:
    with store.transaction():
        store.add_sound(sound(number))
        store.add_file(FileState(f"/sounds/{number}.wav", 7, 11), sound(number).content)


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path, create=True)
    store.compare([], [])
    return store


def test_vectors_come_back_in_half_precision_with_their_places(store):
    keep(store, 1)
    keep(store, 2)
    ids, vectors = store.vectors([2, 3, 99])
    order = np.argsort(ids)
    expected = np.stack([sound(1).vectors[1], sound(2).vectors[0]]).astype(np.float16)
    np.testing.assert_array_equal(vectors[order], expected.astype(np.float32))
    assert store.places([2, 3, 99]) == {2: (1, 8.0, 13.5, ["/sounds/1.wav"]), 3: (2, 0.0, 8.0, ["/sounds/2.wav"])}


def test_a_scan_reads_each_window_of_its_range_once(store, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_ROWS", 3)
    for number in range(7):
        keep(store, number)
    ids = np.concatenate([block for block, _ in store.scan(2, 12)])
    assert ids.tolist() == list(range(3, 13))
    assert [len(block) for block, _ in store.scan()] == [3, 3, 3, 3, 2]
    assert store.count_windows(2, 12) == 10 and store.count_windows() == 14


def test_a_folder_is_not_its_neighbour_of_like_name(store):
    files = [FileState(path, 1, 1) for path in ("/a/x.wav", "/ab/x.wav", "/a-b/x.wav", "/a/b/x.wav")]
    with store.transaction():
        store.add_sound(sound(1))
        for file in files:
            store.add_file(file, sound(1).content)
    assert store.forget("/a") == 2
    assert store.places([1])[1][3] == ["/a-b/x.wav", "/ab/x.wav"]
    assert store.forget("/ab/x.wav") == 1 and store.forget("/a-b") == 1
    assert store.count_windows() == 0


def test_an_error_takes_back_what_its_transaction_did(store):
    with pytest.raises(RuntimeError), store.transaction():
        store.add_sound(sound(1))
        raise RuntimeError
    assert store.counts()["sounds"] == 0 and not store.knows(sound(1).content)
    keep(store, 1)
    assert store.counts() == {"files": 1, "sounds": 1, "windows": 2, "seconds": 13.5, "failed": 0}


def test_a_folder_without_an_index_and_a_file_that_is_none_are_said_to_be_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no index in .*slap index"):
        Store(tmp_path)
    (tmp_path / module.FILE_NAME).touch()  # made by a process that was killed at once
    with pytest.raises(FileNotFoundError, match="no index in"):
        Store(tmp_path)
    for create in (False, True):
        (tmp_path / module.FILE_NAME).write_bytes(b"something else" * 999)
        with pytest.raises(ValueError, match="damaged or no index .*delete"):
            Store(tmp_path, create)


def add_many(folder: Path, first: int, last: int) -> None:
    store = Store(folder, create=True)
    store.compare([], [])
    for number in range(first, last):
        keep(store, number)


def die_inside_a_transaction(folder: Path) -> None:
    store = Store(folder)
    store.compare([], [])
    keep(store, 500)
    with store.transaction():
        for number in range(600, 5600):  # more than fits into SQLite's cache: the file itself has been written to
            store.add_sound(sound(number))
        os.kill(os.getpid(), signal.SIGKILL)


def test_processes_that_write_at_once_and_one_that_is_killed_lose_nothing(tmp_path):
    writers = [start(add_many, tmp_path, 100 * n, 100 * n + 40) for n in range(3)]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    killed = start(die_inside_a_transaction, tmp_path)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert (tmp_path / f"{module.FILE_NAME}-journal").exists()  # it was in the middle of it

    store = Store(tmp_path)
    there = [number for number in range(1000) if store.knows(sound(number).content)]
    assert there == [*range(40), *range(100, 140), *range(200, 240), 500]
    assert not store.knows(sound(600).content)
    assert store.counts()["windows"] == 2 * len(there)
    with sqlite3.connect(tmp_path / module.FILE_NAME) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
