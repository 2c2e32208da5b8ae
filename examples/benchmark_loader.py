"""How fast sound is prepared and read, per core, how much memory preparing takes, and what follows for a large corpus.

    python examples/benchmark_loader.py                      # the clips of examples/data
    python examples/benchmark_loader.py corpus.parquet other.parquet --records 10000 1000000
    python examples/benchmark_loader.py --pairs 109e6 --seconds 10 --gpu-speed 10600

Speeds are seconds of audio per second of one core's time, so that other work on the machine changes little. The plan is
arithmetic on the numbers of the same run.
"""

import argparse
import multiprocessing
import random
import re
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import datasets
import numpy as np

from hf_slap import SlapFeatureExtractor
from hf_slap.data import (
    Caption,
    ClipRef,
    PrepareSettings,
    PretrainCollator,
    PretrainDataset,
    Record,
    SoundSettings,
    load_corpus,
    prepare,
    read_manifest,
    read_records,
    read_rows,
    train_tokenizer,
)
from hf_slap.data.encoding import encode
from hf_slap.data.recipes import get_recipe
from hf_slap.modeling.audio_slap import load_waveform
from hf_slap.objectives import draw_patch_mask

CORPORA = {  # what is compared: (format, codec)
    "parquet, FLAC": ("parquet", "flac"),
    "parquet, Opus 32 kbit/s": ("parquet", "opus"),
    "WebDataset, FLAC": ("webdataset", "flac"),
    "WebDataset, Opus 32 kbit/s": ("webdataset", "opus"),
}
SHARD_BYTES = 2_000_000_000  # of the plan: the Hub takes at most 10,000 files in a folder


def main(arguments: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = Path(__file__).with_name("data") / "train.parquet"
    parser.add_argument("parquet", type=Path, nargs="*", default=[shipped], help="files to measure with")
    parser.add_argument("--recipe", default="package", help="that reads the files")
    parser.add_argument("--records", type=int, nargs="*", default=[], help="measure the memory of preparing so many")
    parser.add_argument("--pairs", type=float, default=109e6, help="of the plan")
    parser.add_argument("--seconds", type=float, default=10.0, help="mean length of a clip of the plan")
    parser.add_argument("--epochs", type=float, default=2.0, help="of the plan")
    parser.add_argument(
        "--gpu-speed", type=float, default=10_600.0, help="seconds of audio that one GPU trains on in a second"
    )
    parsed = parser.parse_args(arguments)
    datasets.disable_progress_bars()

    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        records = [
            record
            for path in parsed.parquet
            for record in get_recipe(parsed.recipe, name=path.stem.lower()).records(path)
            if isinstance(record, Record) and record.split == "train"
        ]
        for name, (format, codec) in CORPORA.items():
            corpus = Path(folder) / f"{format}-{codec}"
            speeds[name] = measure(corpus, records, format, codec)
            print(f"{name}: {speeds[name]}", flush=True)
        memory = {count: peak_memory(count, Path(folder) / str(count)) for count in parsed.records}
    print(table(speeds), memory_table(memory), plan(speeds, parsed), sep="\n\n")
    return {"speeds": speeds, "memory": memory}


# ------------------------------------------------------------------------------------------------------- speeds
def measure(folder: Path, records: list[Record], format: str, codec: str) -> dict[str, float]:
    """Audio seconds per second of a core for each way of going through a corpus, and its bytes per hour of sound."""
    settings = PrepareSettings(SoundSettings(codec), format, shard_bytes=10_000_000)
    preparing = core_seconds(lambda: prepare(records, folder, settings, workers=1))
    seconds = read_manifest(folder)["hours"] * 3600
    corpus = load_corpus(folder, "train", cache_dir=folder / "cache")
    sound = "audio" if format == "parquet" else codec
    streamed = datasets.load_dataset(str(folder), split="train", streaming=True)
    streamed = streamed.cast_column(sound, datasets.Audio(decode=False))
    spent = {
        "prepare": preparing,
        "read in order": core_seconds(lambda: exhaust(read_records(folder))),
        "stream with datasets": core_seconds(lambda: exhaust(streamed)),
        "stream and decode": core_seconds(lambda: exhaust(load_waveform(row[sound], 16_000) for row in streamed)),
        "train (random order, decode, log-mel, batch)": core_seconds(training_epoch(corpus)),
    }
    return {
        **{name: round(seconds / spent[name], 1) for name in spent},
        "MB per hour": round(read_manifest(folder)["bytes"] / 1e6 / (seconds / 3600), 2),
    }


def training_epoch(corpus: datasets.Dataset, batch: int = 16) -> Callable[[], None]:
    """One epoch of what a loader's worker does."""
    tokenizer = train_tokenizer([text for texts in corpus["captions"] for text in texts], vocab_size=300)
    clips, collate = PretrainDataset(corpus, SlapFeatureExtractor(), draw_patch_mask), PretrainCollator(tokenizer)
    order = np.random.default_rng(0).permutation(len(corpus)).tolist()
    clips[ClipRef(0, 0, order[0])]  # builds the filters

    def epoch() -> None:
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            collate([clips[ClipRef(0, start + place, row)] for place, row in enumerate(rows)])

    return epoch


def core_seconds(work: Callable) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def exhaust(rows) -> None:
    for _ in rows:
        pass


# ------------------------------------------------------------------------------------------------------- memory
def peak_memory(count: int, folder: Path) -> dict[str, float]:
    """Peak memory in MB, above what the libraries take, of preparing so many records with two workers; and of going
    through the corpus. In a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, count, folder).result()


def _peak_memory(count: int, folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True)
    clip = folder / "clip.flac"
    clip.write_bytes(encode(0.1 * np.random.default_rng(0).standard_normal(3200), 16_000, "flac"))
    before, started, workers = own_peak(), time.monotonic(), [0.0]
    threading.Thread(target=watch_workers, args=(workers,), daemon=True).start()
    prepare(synthetic(count, clip), folder / "corpus", PrepareSettings(SoundSettings("path", None)), workers=2)
    preparing, wall = own_peak(), time.monotonic() - started
    exhaust(read_rows(folder / "corpus", ["id", "captions", "duration"]))
    reading = own_peak()
    return {
        "main process": round(preparing - before, 1),
        "largest worker, with libraries": round(workers[0], 1),
        "reading": round(reading - before, 1),
        "minutes": round(wall / 60, 2),
    }


def synthetic(count: int, clip: Path) -> Iterator[Record]:
    """Records with captions of their own, all with the sound of one file."""
    words = random.Random(0)
    for number in range(count):
        texts = [" ".join(words.choices(("rain", "wind", "a", "dog", "barks", "far", "away"), k=12)) for _ in range(3)]
        yield Record(
            f"synthetic/{number}", "synthetic", f"synthetic:{number}", {"bytes": None, "path": str(clip)},
            [Caption(text, "", "machine", "none") for text in texts], "CC0-1.0", True, "sound", labels=["rain"],
        )  # fmt: skip


def own_peak() -> float:
    """The most memory that this process has had so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def watch_workers(largest: list[float]) -> None:
    """Keeps in `largest` the peak memory of the worker that had most, MB (Linux)."""
    while True:
        for worker in multiprocessing.active_children():
            status = Path(f"/proc/{worker.pid}/status")
            if status.is_file() and (peak := re.search(r"VmHWM:\s*(\d+)", status.read_text())):
                largest[0] = max(largest[0], int(peak[1]) / 1024)
        time.sleep(0.2)


# ------------------------------------------------------------------------------------------------------- tables
def table(speeds: dict[str, dict[str, float]]) -> str:
    ways = list(next(iter(speeds.values())))
    rows = [[way, *(f"{speeds[name][way]:,.1f}" for name in speeds)] for way in ways]
    return markdown(["seconds of audio per second of a core", *speeds], rows)


def memory_table(memory: dict[int, dict[str, float]]) -> str:
    if not memory:
        return "memory: not measured; --records 10000 100000"
    parts = list(next(iter(memory.values())))
    rows = [[f"{count:,}", *(f"{memory[count][part]:,.1f}" for part in parts)] for count in memory]
    units = ["minutes" if part == "minutes" else f"MB, {part}" for part in parts]
    return markdown(["records", *units], rows)


def plan(speeds: dict[str, dict[str, float]], parsed: argparse.Namespace) -> str:
    """What a corpus of `parsed.pairs` clips would take, by the numbers of this run."""
    hours = parsed.pairs * parsed.seconds / 3600
    train = "train (random order, decode, log-mel, batch)"
    rows = [["hours of sound", *[f"{hours:,.0f}"] * len(speeds)]]

    def row(what: str, value: Callable[[dict], str]) -> None:
        rows.append([what, *(value(speed) for speed in speeds.values())])

    row("storage, TB", lambda speed: f"{hours * speed['MB per hour'] / 1e6:,.1f}")
    row("shards of 2 GB", lambda speed: f"{hours * speed['MB per hour'] * 1e6 / SHARD_BYTES:,.0f}")
    row("core-hours to prepare (from Opus)", lambda speed: f"{hours / speed['prepare']:,.0f}")
    row("days to prepare on 64 cores", lambda speed: f"{hours / speed['prepare'] / 64 / 24:,.1f}")
    row("cores that feed one GPU", lambda speed: f"{parsed.gpu_speed / speed[train]:,.0f}")
    row(
        "MB/s that one GPU reads",
        lambda speed: f"{parsed.gpu_speed / 3600 * speed['MB per hour']:,.0f}",
    )
    days = hours * parsed.epochs / parsed.gpu_speed / 24
    title = f"{parsed.pairs / 1e6:,.0f} M clips of {parsed.seconds:g} s, {parsed.epochs:g} epochs"
    note = f"One GPU at {parsed.gpu_speed:,.0f} s of audio per second: {days:,.1f} days of training."
    return f"{markdown([title, *speeds], rows)}\n\n{note}"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
