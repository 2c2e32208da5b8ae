"""Finds the nearest of many windows without comparing with all of them, in bounded memory, by faiss.

Every `SEGMENT_WINDOWS` windows become a segment: a file of one byte per value and `LISTS` lists of like windows, of
which a query reads `PROBES`. It is written once, whole, and mapped into memory, so that neither its making nor a search
needs more memory when the library grows. Windows that are in no segment yet are compared with one by one.

Segments only propose; the store decides. Candidates get their score from the vectors in the store, and those that the
store has no more are dropped: a segment may be out of date, missing or deleted, and nothing wrong is found.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..files import UNFINISHED, write_whole
from .store import Segment, Store

logger = logging.getLogger(__name__)

SEGMENT_WINDOWS = 65_536
LISTS = 256  # the square root of SEGMENT_WINDOWS
PROBES = 16  # lists of each segment that are read; measured by examples/benchmark_search.py
TRAINING_WINDOWS = 40 * LISTS  # faiss asks for 39 per list
PROPOSED = 256  # windows that are proposed at least: a byte per value orders near ones only roughly
LEAST_LIVE = 0.5  # segments are made anew when less of their windows is still there
HINT = 'searching is faster with faiss: pip install "hf_slap[search]"'


def import_faiss() -> Any:
    """The module, or None where it is not installed: everything is then compared one by one."""
    try:
        import faiss
    except ImportError:
        return None
    return faiss


def grow(store: Store) -> None:
    """Makes segments of the windows that are in none, as far as they fill one; only one process at a time."""
    faiss, segments = import_faiss(), store.segments()
    if segments:
        live = store.count_windows(0, segments[-1].last)
        if live < LEAST_LIVE * sum(segment.windows for segment in segments):
            segments = []
    missing = [segment for segment in segments if not (store.path.parent / segment.file).exists()]
    if missing:
        segments = segments[: segments.index(missing[0])]
    left = store.count_windows(segments[-1].last if segments else 0)
    if left >= SEGMENT_WINDOWS and faiss is None:
        logger.warning(HINT)
        return
    while left >= SEGMENT_WINDOWS:
        segments.append(_make_segment(store, segments[-1].last if segments else 0, faiss))
        store.set_segments(segments)
        left -= SEGMENT_WINDOWS
    if len(segments) != len(store.segments()):
        store.set_segments(segments)
    _remove_strays(store, segments)


def _make_segment(store: Store, after: int, faiss: Any) -> Segment:
    sample, count, last = [], 0, after
    step = SEGMENT_WINDOWS // TRAINING_WINDOWS
    for ids, vectors in store.scan(after):
        ids, vectors = ids[: SEGMENT_WINDOWS - count], vectors[: SEGMENT_WINDOWS - count]
        sample.append(vectors[::step])
        count, last = count + len(ids), int(ids[-1])
        if count == SEGMENT_WINDOWS:
            break
    index = faiss.index_factory(sample[0].shape[1], f"IVF{LISTS},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(np.concatenate(sample))
    del sample
    for ids, vectors in store.scan(after, last):
        index.add_with_ids(vectors, ids)
    file = f"segment-{after + 1}-{last}.faiss"
    write_whole(store.path.parent / file, faiss.serialize_index(index).tofile)
    return Segment(file, after + 1, last, count)


def _remove_strays(store: Store, segments: list[Segment]) -> None:
    named = {segment.file for segment in segments}
    for path in [*store.path.parent.glob("segment-*.faiss"), *store.path.parent.glob(f"{UNFINISHED}*")]:
        if path.name not in named:
            path.unlink(missing_ok=True)


class Neighbours:
    """Searches the windows of a store; keeps the segments open that it has read.

    Args:
        store: of the index.
        probes: lists of each segment that a query reads; more find more and take longer.
    """

    def __init__(self, store: Store, probes: int = PROBES):
        self.store, self.probes = store, probes
        self._open: dict[str, Any] = {}

    def nearest(self, query: np.ndarray, count: int, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The windows that are most like a query.

        Args:
            query: (P,), unit norm.
            count: how many are wanted.
            exact: compare with every window.
        Returns:
            ids (n,) and cosines (n,), best first; n is below `count` where there are no more.
        """
        query = np.ascontiguousarray(query, np.float32)
        most = max(count, PROPOSED)
        proposed, after = [], 0
        best = _Best(count)
        for segment, index in [] if exact else self._segments():
            for ids, vectors in self.store.scan(after, segment.first - 1):
                best.add(ids, vectors @ query)
            if index is None:
                for ids, vectors in self.store.scan(segment.first - 1, segment.last):
                    best.add(ids, vectors @ query)
            else:
                scores, ids = index.search(query[None], most)
                proposed.append((ids[0], scores[0]))
            after = segment.last
        for ids, vectors in self.store.scan(after):
            best.add(ids, vectors @ query)
        if proposed:
            ids, scores = (np.concatenate(values) for values in zip(*proposed, strict=True))
            ids = ids[np.argsort(-scores)][:most]
            ids, vectors = self.store.vectors(ids[ids >= 0])
            if len(ids):
                best.add(ids, vectors @ query)
        return best.ids, best.scores

    def _segments(self) -> Iterator[tuple[Segment, Any]]:
        """Segments in order, each with its faiss index, or None where it cannot be read."""
        segments = self.store.segments()
        faiss = import_faiss() if segments else None
        if segments and faiss is None:
            logger.warning(HINT)
        self._open = {segment.file: self._open.get(segment.file) for segment in segments}
        for segment in segments:
            if faiss is not None and self._open[segment.file] is None:
                self._open[segment.file] = self._read(segment, faiss)
            yield segment, self._open[segment.file]

    def _read(self, segment: Segment, faiss: Any) -> Any:
        path = self.store.path.parent / segment.file
        try:
            index = faiss.read_index(str(path), 0 if os.name == "nt" else faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            if path.exists():
                logger.warning(f"{path} cannot be read ({error}); delete it and run `slap index` to make it anew")
            return None  # or another process has just replaced it
        index.nprobe = self.probes
        return index


class _Best:
    """The best of all that was added, sorted."""

    def __init__(self, count: int):
        self.count = count
        self.ids, self.scores = np.zeros(0, np.int64), np.zeros(0, np.float32)

    def add(self, ids: np.ndarray, scores: np.ndarray) -> None:
        ids, scores = np.concatenate([self.ids, ids]), np.concatenate([self.scores, scores])
        order = np.lexsort((ids, -scores))[: self.count]
        self.ids, self.scores = ids[order], scores[order]
