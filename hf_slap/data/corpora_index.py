"""The clips of several prepared corpora, numbered, fingerprinted and found again: what merging and leakage stand on."""

import hashlib
import itertools
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_whole
from ..modeling.audio_slap import load_waveform
from .fingerprint import FRAME, RATE, Fingerprint, FingerprintIndex, Match, build_index, correlate, fingerprint
from .shards import Shard, read_shard, read_shards

_FACTS = ("id", "source", "source_id", "segment", "duration", "sampling_rate", "redistributable", "split")
_KEPT_SHARDS = 4  # whose sounds stay in memory while clips are compared


class CorporaIndex:
    """Clips of corpora by number: facts, fingerprint and sound. Made by `index_corpora`.

    Attributes:
        folders: of the corpora.
        facts: a table with the columns `_FACTS` and "corpus", "shard", "row": 150 to 200 bytes a clip in memory.
        prints: the fingerprints, memory-mapped.
    """

    def __init__(self, folders: Sequence[Path], work: Path):
        self.folders = list(folders)
        self.shards = [read_shards(folder) for folder in self.folders]
        self.prints = FingerprintIndex(work / "index")
        self.facts = pq.read_table(work / "facts.parquet")
        self._sounds: OrderedDict[tuple[int, int], list[dict]] = OrderedDict()

    def __len__(self) -> int:
        return self.facts.num_rows

    def fact(self, clip: int) -> dict:
        """The facts of a clip, as plain values."""
        return self.facts.slice(clip, 1).to_pylist()[0]

    def column(self, name: str) -> np.ndarray:
        return self.facts[name].to_numpy(zero_copy_only=False)

    def waveform(self, clip: int) -> np.ndarray:
        """The sound of a clip, (n,) at 16 kHz. The sounds of a few shards stay in memory."""
        place = tuple(self.facts[name][clip].as_py() for name in ("corpus", "shard", "row"))
        key = place[:2]
        if key not in self._sounds:
            corpus, shard = key
            rows = read_shard(self.folders[corpus], self.shards[corpus][shard], ["audio"])
            self._sounds[key] = [row["audio"] for row in rows]
            if len(self._sounds) > _KEPT_SHARDS:
                self._sounds.popitem(last=False)
        self._sounds.move_to_end(key)
        return load_waveform(self._sounds[key][place[2]], RATE, name=self.facts["id"][clip].as_py())

    def correlate(self, waveform: np.ndarray, match: Match) -> float:
        """Correlation of a waveform with that of the clip that its fingerprint matches; see `correlate`."""
        return correlate(waveform, self.waveform(match.clip), match.offset)

    def __reduce__(self):  # travels between processes as its paths
        return CorporaIndex, (self.folders, self.prints.folder.parent)


def index_corpora(folders: Sequence[str | os.PathLike], work: str | os.PathLike, workers: int = 1) -> CorporaIndex:
    """Fingerprints every clip of prepared corpora. Interrupted, it goes on with the shards that are missing.

    Args:
        folders: of corpora that `prepare` has finished.
        work: where the index lies; may be deleted afterwards.
        workers: shards fingerprinted at once, each in a process; 1 starts none.
    Raises:
        ValueError: an id that several clips have.
        FileNotFoundError, ValueError: see `read_manifest`.
    """
    folders, work = [Path(folder) for folder in folders], Path(work)
    (work / "prints").mkdir(parents=True, exist_ok=True)
    jobs = [
        (folder, corpus, number, shard, work / "prints" / f"{_state(shard)}.npz")
        for corpus, folder in enumerate(folders)
        for number, shard in enumerate(read_shards(folder))
    ]
    state = hashlib.sha256(repr([(job[1], job[2], job[4].name) for job in jobs]).encode()).hexdigest()
    done = work / "state.txt"
    if not done.is_file() or done.read_text() != state:
        for _ in map_jobs(_print_shard, [(job[0], job[3], job[4]) for job in jobs], workers):
            pass
        build_index(_read_prints(jobs), work / "index")
        facts = _read_facts(jobs)
        names, counts = np.unique(facts["id"].to_numpy(zero_copy_only=False), return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"id {names[counts > 1][0]!r} belongs to several clips: sources of one name, a table that names a file "
                "twice, or files that differ in their extension only; ids must differ"
            )
        write_whole(work / "facts.parquet", lambda file: pq.write_table(facts, file))
        write_whole(done, lambda file: file.write(state.encode()))
    return CorporaIndex(folders, work)


def map_jobs(work: Callable[..., Any], jobs: Iterable[tuple], workers: int) -> Iterator[Any]:
    """`work(*job)` of each job in their order, in `workers` processes; 1, or a single job, starts none."""
    jobs = iter(jobs)
    first = list(itertools.islice(jobs, 2))
    jobs = itertools.chain(first, jobs)
    if workers <= 1 or len(first) < 2:
        yield from (work(*job) for job in jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending = deque()  # a job may hold sound, so only few wait in line
        for job in jobs:
            pending.append(pool.submit(work, *job))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _state(shard: Shard) -> str:
    content = sorted((name, facts["sha256"]) for name, facts in shard.files.items())
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _print_shard(folder: Path, shard: Shard, path: Path) -> None:
    if path.is_file():
        return
    digests, frames = [], []
    for row in read_shard(folder, shard, ["id", "audio"]):
        one = fingerprint(load_waveform(row["audio"], RATE, name=row["id"]))
        digests.append(one.digest)
        frames.append(one.frames)
    content = BytesIO()
    lengths = np.array([len(some) for some in frames], np.int64)
    np.savez(content, digests=np.array(digests), lengths=lengths, frames=np.concatenate(frames or [np.zeros(0, FRAME)]))
    write_whole(path, lambda file: file.write(content.getvalue()))


def _read_prints(jobs: Sequence[tuple]) -> Iterator[tuple[str, Fingerprint]]:
    for folder, _, _, shard, path in jobs:
        with np.load(path) as saved:
            digests, frames, ends = saved["digests"].tolist(), saved["frames"], np.cumsum(saved["lengths"])
        rows = read_shard(folder, shard, ["id"], batch=4096)
        for row, digest, some in zip(rows, digests, np.split(frames, ends[:-1]), strict=True):
            yield row["id"], Fingerprint(digest, some)


def _read_facts(jobs: Sequence[tuple]) -> pa.Table:
    tables = []
    for folder, corpus, number, shard, _ in jobs:
        rows = list(read_shard(folder, shard, list(_FACTS), batch=4096))
        for place, row in enumerate(rows):
            segment = row.pop("segment") or {}
            row |= {"start": segment.get("start"), "end": segment.get("end")}
            row |= {"corpus": corpus, "shard": number, "row": place}
        tables.append(pa.Table.from_pylist(rows, _FACTS_SCHEMA))
    return pa.concat_tables(tables) if tables else _FACTS_SCHEMA.empty_table()


_FACTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "source", "source_id", "split")),
        *((name, pa.float64()) for name in ("start", "end", "duration")),
        ("sampling_rate", pa.int32()),
        ("redistributable", pa.bool_()),
        *((name, pa.int32()) for name in ("corpus", "shard", "row")),
    ]
)
