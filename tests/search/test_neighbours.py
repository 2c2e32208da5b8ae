"""The index of neighbours proposes, the store decides: nothing wrong is found, whatever becomes of the index."""

import signal
import sys

import numpy as np
import pytest
from processes import die_at, start
from test_store import SPANS

from hf_slap.search import neighbours as module
from hf_slap.search.neighbours import Neighbours, grow
from hf_slap.search.store import FileState, Sound, Store

pytest.importorskip("faiss")
WIDTH, SEGMENT = 13, 331


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    shrink(monkeypatch.setattr)


def shrink(set_attribute) -> None:
    for name, value in {
        "SEGMENT_WINDOWS": SEGMENT,
        "LISTS": 5,
        "PROBES": 2,
        "TRAINING_WINDOWS": 110,
        "PROPOSED": 50,
    }.items():
        set_attribute(module, name, value)


def drawn(count: int, seed: int = 0) -> np.ndarray:
    """Vectors in seven groups."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(7, WIDTH))[rng.integers(7, size=count)] + 0.5 * rng.normal(size=(count, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)


def fill(folder, vectors: np.ndarray, first: int = 0) -> Store:
    store = Store(folder, create=True)
    store.compare([], [])
    with store.transaction():
        for number, vector in enumerate(vectors, first):
            content = number.to_bytes(16, "big")
            store.add_sound(Sound(content, 8.0, SPANS[:1], vector[None]))
            store.add_file(FileState(f"/{number // 337}/{number:05}.wav", 1, 1), content)
    return store


def best(store: Store, query: np.ndarray, count: int) -> list[int]:
    ids, vectors = (np.concatenate(parts) for parts in zip(*store.scan(), strict=True))
    return ids[np.argsort(-vectors @ query, kind="stable")][:count].tolist()


def test_most_of_the_nearest_are_found_and_their_cosines_are_exact(tmp_path):
    store = fill(tmp_path, drawn(1400))
    grow(store)
    assert [segment.windows for segment in store.segments()] == [SEGMENT] * 4
    hits = {2: [], 5: []}  # by the number of lists that are read, of five
    for query in drawn(30, seed=1):
        expected = best(store, query, 10)
        assert Neighbours(store).nearest(query, 10, exact=True)[0].tolist() == expected
        for probes, shares in hits.items():
            ids, scores = Neighbours(store, probes).nearest(query, 10)
            np.testing.assert_allclose(scores, [store.vectors([i])[1][0] @ query for i in ids], atol=1e-6)
            assert (np.diff(scores) <= 0).all()
            shares.append(len(set(ids.tolist()) & set(expected)) / 10)
    assert 0.6 < np.mean(hits[2]) < 0.98 < np.mean(hits[5])


def test_what_is_in_no_segment_is_found_too_and_old_segments_stay_as_they_are(tmp_path):
    store = fill(tmp_path, drawn(400))
    grow(store)
    (segment,) = tmp_path.glob("segment-*")
    before = segment.stat().st_mtime_ns, segment.stat().st_ino
    neighbours = Neighbours(store)
    late = drawn(300, seed=2)
    fill(tmp_path, late, first=400)  # another process, say
    assert [neighbours.nearest(vector, 1)[0][0] for vector in late[::50]] == [401, 451, 501, 551, 601, 651]
    grow(store)
    assert len(list(tmp_path.glob("segment-*"))) == 2
    assert (segment.stat().st_mtime_ns, segment.stat().st_ino) == before
    assert [neighbours.nearest(vector, 1)[0][0] for vector in late[::50]] == [401, 451, 501, 551, 601, 651]


def test_what_is_gone_is_not_found_and_hollow_segments_are_made_anew(tmp_path):
    vectors = drawn(2 * SEGMENT)
    store = fill(tmp_path, vectors)
    grow(store)
    neighbours = Neighbours(store)
    assert neighbours.nearest(vectors[5], 1)[0].tolist() == [6]
    store.forget("/0/00005.wav")
    assert 6 not in neighbours.nearest(vectors[5], 20)[0]
    grow(store)
    assert len(store.segments()) == 2
    assert store.forget("/0") == 336
    grow(store)
    assert store.segments() == [] and list(tmp_path.glob("segment-*")) == []
    assert neighbours.nearest(vectors[-1], 1)[0].tolist() == [2 * SEGMENT]


@pytest.mark.parametrize("harm", ["missing", "damaged", "no faiss"])
def test_without_a_segment_every_window_is_compared(tmp_path, harm, monkeypatch):
    store = fill(tmp_path, drawn(700))
    grow(store)
    first, _ = sorted(tmp_path.glob("segment-*"))
    if harm == "missing":
        first.unlink()
    elif harm == "damaged":
        first.write_bytes(first.read_bytes()[:999])
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    query = drawn(1, seed=3)[0]
    ids, _ = Neighbours(store, probes=5).nearest(query, 10)
    assert ids.tolist() == best(store, query, 10)
    if harm == "missing":
        grow(store)
        assert first.exists() and len(store.segments()) == 2


def grow_and_die(folder, change: int) -> None:
    shrink(setattr)
    store = Store(folder)
    die_at(folder, change)
    grow(store)


def test_killed_while_segments_are_written_it_finds_all_and_goes_on(tmp_path):
    store = fill(tmp_path, drawn(700))
    query = drawn(1, seed=3)[0]
    for change in (2, 3):  # before a segment is renamed; before the next one is opened
        process = start(grow_and_die, tmp_path, change)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert Neighbours(store, probes=5).nearest(query, 10)[0].tolist() == best(store, query, 10)
    grow(store)
    assert len(store.segments()) == 2
    named = {segment.file for segment in store.segments()}
    assert {path.name for path in tmp_path.iterdir()} == named | {"library.sqlite"}
