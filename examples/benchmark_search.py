"""Recall, speed, memory and disk of an index of a million clips.

    python examples/benchmark_search.py                                  # the model that comes with the package
    python examples/benchmark_search.py --model runs/tiny/model --clips 300000

A million recordings are not at hand, so the vectors are drawn: around the model's embeddings of real clips (cuts of 1
to 10 s of examples/data/train.parquet), each with as much spread, in their directions, as its ten neighbours have.
They pass through the same store and index as real ones. Queries are real and from elsewhere: captions and clips of
examples/data/heldout.parquet. Recall@10 is the share of the ten windows that comparing with every vector finds. Every
phase runs in a process of its own, without the model, so that its memory is its own.
"""

import argparse
import json
import multiprocessing
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hf_slap.search.neighbours import LISTS, PROBES, SEGMENT_WINDOWS, Neighbours, grow
from hf_slap.search.store import FileState, Sound, Store

DATA = Path(__file__).parent / "data"
NEIGHBOURS = 10
FOUND = 10
COMMIT_CLIPS = 4096


class Cost(NamedTuple):
    """What a phase took: seconds of time and of CPU time, and the most memory in MB."""

    seconds: float
    cpu: float
    megabytes: float


def measure(function: Callable, *arguments: Any) -> tuple[Any, Cost]:
    """The result of a function in a new process, and its cost."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable, arguments: tuple) -> tuple[Any, Cost]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = function(*arguments)
    peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return result, Cost(time.perf_counter() - wall, time.process_time() - cpu, int(peak[1]) / 1024)


# ------------------------------------------------------------------------------------------------ real embeddings


def embed_real(model: str | None) -> dict[str, np.ndarray]:
    """(n, P) each: "anchors" to draw around, and the queries "captions" and "clips"."""
    from hf_slap import SlapModel, SlapProcessor, bundled, embed
    from hf_slap.data import load_corpus

    place = model or bundled("slap-nano")
    slap, processor = SlapModel.from_pretrained(place).eval(), SlapProcessor.from_pretrained(place)
    rate = processor.feature_extractor.sampling_rate
    train, heldout = (load_corpus(str(DATA / name)) for name in ("train.parquet", "heldout.parquet"))
    rng = np.random.default_rng(0)

    def cuts():
        for row in train:
            wave = processor.feature_extractor.load(row["audio"])
            for _ in range(8):
                length = min(len(wave), int(rng.uniform(1, 10) * rate))
                start = rng.integers(len(wave) - length + 1)
                yield {"array": wave[start : start + length], "sampling_rate": rate}

    def vectors(source: Any) -> np.ndarray:
        return np.array(embed(source, slap, processor, progress=False).dataset["embedding"], np.float32)

    captions = sorted({caption for row in heldout for caption in row["captions"]})
    inputs = processor(text=captions, return_tensors="pt", padding=True)
    texts = slap.get_text_features(**inputs).pooler_output.detach().numpy()
    return {"anchors": np.unique(vectors(cuts()), axis=0), "captions": texts, "clips": vectors(heldout)}


class Drawn:
    """Vectors around anchors: each anchor plus a normal mixture of the ways to its nearest neighbours."""

    def __init__(self, anchors: np.ndarray):
        self.anchors = anchors
        cosines = anchors @ anchors.T
        np.fill_diagonal(cosines, -2)
        self.near = np.argpartition(-cosines, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]

    def block(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, P), unit norm."""
        anchor = rng.integers(len(self.anchors), size=count)
        ways = self.anchors[self.near[anchor]] - self.anchors[anchor][:, None]  # (count, NEIGHBOURS, P)
        share = rng.standard_normal((count, NEIGHBOURS), np.float32) / np.sqrt(NEIGHBOURS)
        values = self.anchors[anchor] + np.einsum("nk,nkp->np", share, ways)
        return values / np.linalg.norm(values, axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------------ phases


def fill(folder: Path, anchors: np.ndarray, clips: int) -> None:
    """Commits drawn clips of one window each, as an update does."""
    store, drawn, rng = Store(folder, create=True), Drawn(anchors), np.random.default_rng(1)
    store.compare([], [])
    for first in range(0, clips, COMMIT_CLIPS):
        vectors = drawn.block(min(COMMIT_CLIPS, clips - first), rng)
        with store.transaction():
            for number, vector in enumerate(vectors, first):
                content = number.to_bytes(16, "big")
                store.add_sound(Sound(content, 5.0, [(0.0, 5.0)], vector[None]))
                store.add_file(_file(number), content)


def _file(number: int) -> FileState:
    return FileState(f"/sounds/{number // 1000:05d}/{number:08d}.wav", 1, 1)


def update_again(folder: Path, clips: int) -> None:
    """What an update does besides looking at the disk, when every file is as it was."""
    store = Store(folder)
    assert store.compare(map(_file, range(clips)), ["/sounds"]) == (clips, 0)
    assert list(store.pending()) == []
    store.finish_update()
    grow(store)


def build(folder: Path) -> None:
    """Segments of all that was filled in."""
    grow(Store(folder))


def compare_all(folder: Path, queries: np.ndarray) -> np.ndarray:
    """(queries, FOUND) ids of the best windows, by comparing with each."""
    scores = np.zeros((len(queries), 0), np.float32)
    ids = np.zeros((len(queries), 0), np.int64)
    for block_ids, vectors in Store(folder).scan():
        scores = np.concatenate([scores, queries @ vectors.T], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(block_ids, (len(queries), len(block_ids)))], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :FOUND]
        scores, ids = np.take_along_axis(scores, best, 1), np.take_along_axis(ids, best, 1)
    return ids


def search(folder: Path, queries: np.ndarray, probes: int, exact: bool) -> tuple[list[list[int]], list[float]]:
    """Ids that each query finds, as `SoundIndex.search(k=10)` looks for them, and seconds that each took."""
    store = Store(folder)
    neighbours = Neighbours(store, probes)
    found, took = [], []
    for query in queries:
        start = time.perf_counter()
        ids, _ = neighbours.nearest(query, 4 * FOUND, exact)
        store.places(ids)
        took.append(time.perf_counter() - start)
        found.append(ids[:FOUND].tolist())
    return found, took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder or Hub id; default: the model that comes with the package")
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100, help="of each kind")
    parser.add_argument("--probes", type=int, nargs="+", default=[PROBES // 2, PROBES, 2 * PROBES, 4 * PROBES])
    parser.add_argument("--output", type=Path, help="a JSON file of all numbers")
    arguments = parser.parse_args()

    real, cost = measure(embed_real, arguments.model)
    rng = np.random.default_rng(2)
    kinds = {name: rng.permutation(real[name])[: arguments.queries] for name in ("captions", "clips")}
    queries = np.concatenate(list(kinds.values()))
    width = queries.shape[1]
    print(
        f"{len(real['anchors']):,} embeddings of real sound, {width} values each; {arguments.clips:,} clips are drawn"
    )
    rows = []
    with tempfile.TemporaryDirectory(prefix="slap-search-") as temporary:
        folder = Path(temporary)
        _, filled = measure(fill, folder, real["anchors"], arguments.clips)
        _, built = measure(build, folder)
        sizes = {
            "store": (folder / "library.sqlite").stat().st_size,
            "segments": sum(path.stat().st_size for path in folder.glob("segment-*")),
        }
        _, again = measure(update_again, folder, arguments.clips)
        truth, _ = measure(compare_all, folder, queries)
        (_, took), exact_cost = measure(search, folder, queries[:: len(queries) // 5], PROBES, True)
        rows.append(("every vector compared", "", *_latency(took), exact_cost.megabytes))
        for probes in arguments.probes:
            (found, took), cost = measure(search, folder, queries, probes, False)
            hits = [len(set(ids) & set(best)) / FOUND for ids, best in zip(found, truth.tolist(), strict=True)]
            recall = [f"{np.mean(part):.3f}" for part in np.split(np.array(hits), [len(kinds["captions"])])]
            name = f"{probes} of {LISTS} lists" + " (default)" * (probes == PROBES)
            rows.append((name, " / ".join(recall), *_latency(took), cost.megabytes))
    for name, cost in (("committed", filled), ("segments made", built), ("nothing new", again)):
        print(f"{name}: {cost.seconds:.0f} s, {cost.cpu:.0f} s of CPU time, at most {cost.megabytes:.0f} MB of memory")
    print(
        f"disk: {sizes['store'] / 1e6:.0f} MB store, {sizes['segments'] / 1e6:.0f} MB segments of {SEGMENT_WINDOWS:,}\n"
    )
    print("| search | recall@10, captions / clips | median ms | 95 % below ms | peak MB |\n|---|---|---|---|---|")
    for name, recall, median, high, memory in rows:
        print(f"| {name} | {recall} | {median:.1f} | {high:.1f} | {memory:.0f} |")
    if arguments.output:
        numbers = {
            "clips": arguments.clips,
            "width": width,
            "bytes": sizes,
            "filled": filled,
            "built": built,
            "again": again,
            "rows": rows,
        }
        arguments.output.write_text(json.dumps(numbers, indent=1))


def _latency(took: list[float]) -> tuple[float, float]:
    return float(np.median(took) * 1e3), float(np.quantile(took, 0.95) * 1e3)


if __name__ == "__main__":
    main()
