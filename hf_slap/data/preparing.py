"""From raw records to the shards of a corpus: on all cores or on a cluster, and again from where it was interrupted.

The records are cut into parts, each of one split, and a part becomes its own shards. A part is a function of its
records and the settings alone, so that the corpus is the same to the last byte for any number of workers, on any
engine, and however often it was killed in between. What a part has finished stands in `parts/`; finished shards are
not made again.
"""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ..files import UNFINISHED, write_whole
from .encoding import ClipError, SoundSettings, prepare_sound
from .publishing import CARD, write_card
from .records import SPLITS, Record, RecordError, validate
from .shards import FORMATS, MANIFEST, Shard, write_manifest, write_shards

ENGINES = ("processes", "ray")
ERRORS = "errors.parquet"
ERROR_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "stage", "reason")])
_SETTINGS = "settings.json"


@dataclasses.dataclass(frozen=True)
class PrepareSettings:
    """What shapes the bytes of a corpus.

    Args:
        sound: how sound is kept.
        format: of the shards, "parquet" or "webdataset".
        shard_bytes: a shard is closed when it holds so many bytes; the last one of a part is smaller.
        part_records: a part, which one process prepares, has at most so many records. It also ends where the sound
            embedded in them reaches `shard_bytes`, which bounds the memory that a part on its way takes. For shards of
            gigabytes raise both.
    Raises:
        ValueError: an unknown format, or a size that is not positive.
    """

    sound: SoundSettings = SoundSettings()
    format: str = "parquet"
    shard_bytes: int = 128_000_000
    part_records: int = 2_000

    def __post_init__(self):
        if self.format not in FORMATS:
            raise ValueError(f"format is {self.format!r}; accepted are {sorted(FORMATS)}")
        if self.shard_bytes < 1 or self.part_records < 1:
            raise ValueError(f"shard_bytes {self.shard_bytes} and part_records {self.part_records} must be positive")


@dataclasses.dataclass
class Part:
    """Consecutive raw records of one split, and what could not become a record."""

    split: str
    number: int
    items: list[Record | RecordError]

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:05d}"

    def digest(self) -> str:
        """Changes with every field of every record, with embedded sound, with size and time of files named by path."""
        digest = hashlib.blake2b(digest_size=16)
        for item in self.items:
            if isinstance(item, Record):
                facts = {name: value for name, value in item.to_row().items() if name != "audio"}
                digest.update(json.dumps([facts, item.audio["path"], item.cut], default=repr).encode())
                digest.update(item.audio["bytes"] or _file_state(item.audio["path"] or ""))
            else:
                digest.update(str(item).encode())
        return digest.hexdigest()


def prepare(
    records: Iterable[Record | RecordError],
    folder: str | os.PathLike,
    settings: PrepareSettings | None = None,
    *,
    workers: int | None = None,
    engine: str = "processes",
    about: dict | None = None,
) -> dict:
    """Writes a corpus: decodes and checks every clip, encodes it, and puts it into shards.

    A clip that cannot be used costs a line of `errors.parquet` (id, source, stage, reason), not the run. Called again
    with the same records, it goes on where it was; with a finished corpus, it changes nothing. A file that was changed
    or put in place since is read; the card is written anew where shards changed.

    Args:
        records: raw, in an order that is always the same; a `RecordError` among them becomes a line of the report.
        folder: of the corpus; for a cluster, one that all machines see.
        settings: what the corpus is to be like.
        workers: parts prepared at once; default: the cores of the machine or cluster. 1 starts no process.
        engine: "processes" on this machine, or "ray": the cluster that `ray.init()` finds.
        about: JSON values for the manifest.
    Returns:
        The manifest: records, captions, hours, bytes, errors, shards.
    Raises:
        ValueError: an unknown engine, or a folder that was begun with other settings.
        ImportError: Ray is missing.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; accepted are {ENGINES}")
    folder, settings = Path(folder).absolute(), settings or PrepareSettings()
    _begin(folder, settings)
    run = _on_ray if engine == "ray" else _on_processes
    work = functools.partial(prepare_part, folder=folder, settings=settings)
    names = []
    with tqdm(desc=f"preparing {folder.name}", unit="clip", disable=None) as bar:
        for name, number in run(work, _parts(records, settings), workers):
            names.append(name)
            bar.update(number)
    return _finish(folder, sorted(names, key=_place), settings, about or {})


def prepare_part(part: Part, folder: Path, settings: PrepareSettings) -> tuple[str, int]:
    """Makes the shards of one part that are not there yet; the same function on every engine.

    Returns:
        Name of the part and its number of items.
    """
    path = folder / "parts" / f"{part.name}.json"
    fresh = {"inputs": part.digest(), "done": False, "consumed": 0, "errors": [], "shards": []}
    state = _read_state(path, folder, fresh)
    if state["done"]:
        return part.name, len(part.items)
    if state is fresh:
        _remove(folder, part.name, but=())
    consumed = state["consumed"]

    def usable() -> Iterator[Record]:
        nonlocal consumed
        for item in part.items[consumed:]:
            consumed += 1
            try:
                if isinstance(item, RecordError):
                    raise item
                yield prepare_sound(validate(item, prepared=False), settings.sound)
            except (RecordError, ClipError) as problem:
                state["errors"].append(_error_row(item, problem))

    made = write_shards(usable(), folder, part.name, settings.format, settings.shard_bytes, first=len(state["shards"]))
    for shard in made:
        state["shards"].append(dataclasses.asdict(shard))
        state["consumed"] = consumed
        _write_json(path, state)
    _write_json(path, {**state, "consumed": consumed, "done": True})
    return part.name, len(part.items)


def summary(manifest: dict, folder: str | os.PathLike) -> str:
    """A corpus in one line."""
    sizes = f"{len(manifest['shards'])} shards, {manifest['bytes'] / 1e6:,.1f} MB"
    unused = f"{manifest['errors']:,} clips could not be used; see {Path(folder) / ERRORS}"
    return (
        f"{manifest['records']:,} clips, {manifest['captions']:,} captions, {manifest['hours']:,.2f} h, {sizes}"
        + f"; {unused}" * bool(manifest["errors"])
    )


def _parts(records: Iterable[Record | RecordError], settings: PrepareSettings) -> Iterator[Part]:
    """Every split fills its own parts; what is no record goes with the first split."""
    open_parts: dict[str, tuple[Part, int]] = {}
    counts = dict.fromkeys(SPLITS, 0)
    for item in records:
        split = item.split if isinstance(item, Record) and item.split in SPLITS else SPLITS[0]
        part, size = open_parts.pop(split, None) or (Part(split, counts[split], []), 0)
        part.items.append(item)
        size += len(item.audio["bytes"] or b"") if _has_sound(item) else 0
        if len(part.items) < settings.part_records and size < settings.shard_bytes:
            open_parts[split] = part, size
            continue
        counts[split] += 1
        yield part
    for split in SPLITS:
        if split in open_parts:
            yield open_parts[split][0]


def _file_state(path: str) -> bytes:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # said when the clip is read
        return b""
    return f"{facts.st_size} {facts.st_mtime_ns}".encode()


def _has_sound(item: Record | RecordError) -> bool:
    return isinstance(item, Record) and isinstance(item.audio, dict) and isinstance(item.audio.get("bytes"), bytes)


# ------------------------------------------------------------------------------------------------------ engines
def _on_processes(work: Callable, parts: Iterable[Part], workers: int | None) -> Iterator[tuple[str, int]]:
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from map(work, parts)
        return
    # Forked from a process that has the libraries loaded, and neither threads nor open files of ours.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, context, _leave_with_parent) as pool:
        pending, parts = set(), iter(parts)
        try:
            while True:
                while len(pending) <= workers and (part := next(parts, None)) is not None:  # one waits in line
                    pending.add(pool.submit(work, part))
                    del part
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _leave_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(work: Callable, parts: Iterable[Part], workers: int | None) -> Iterator[tuple[str, int]]:
    try:
        import ray
    except ImportError as problem:
        raise ImportError('engine "ray" needs Ray: `pip install "hf_slap[ray]"`') from problem
    if not ray.is_initialized():
        ray.init(logging_level="warning")
    workers = workers or int(ray.cluster_resources()["CPU"])
    remote = ray.remote(num_cpus=1, max_retries=2)(_call)
    pending, parts = [], iter(parts)
    while True:
        while len(pending) <= workers and (part := next(parts, None)) is not None:
            pending.append(remote.remote(work, part))
        if not pending:
            return
        [done], pending = ray.wait(pending)
        yield ray.get(done)


def _call(work: Callable, part: Part) -> tuple[str, int]:
    return work(part)


# ---------------------------------------------------------------------------------------------- what is on disk
def _begin(folder: Path, settings: PrepareSettings) -> None:
    for name in ("data", "index", "parts"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for left in (folder / name).glob(f"{UNFINISHED}*"):
            left.unlink()
    path, wanted = folder / "parts" / _SETTINGS, json.loads(json.dumps(dataclasses.asdict(settings)))
    if not path.is_file() or len(list(path.parent.iterdir())) == 1:  # no part has been begun
        _write_json(path, wanted)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    if there != wanted:
        changed = [
            f"  {name}: {there.get(name)} there, {wanted[name]} now"
            for name in wanted
            if there.get(name) != wanted[name]
        ]
        raise ValueError(
            f"{str(folder)!r} was begun with other settings; go on with those, remove it, or choose another folder:\n"
            + "\n".join(changed)
        )


def _finish(folder: Path, names: list[str], settings: PrepareSettings, about: dict) -> dict:
    """Errors and manifest from what the parts have noted; then removes what belongs to no part."""
    shards, errors = [], 0

    def write(file) -> None:
        nonlocal errors
        with pq.ParquetWriter(file, ERROR_SCHEMA) as writer:
            for name in names:
                state = json.loads((folder / "parts" / f"{name}.json").read_text(encoding="utf-8"))
                shards.extend(Shard(**shard) for shard in state["shards"])
                errors += len(state["errors"])
                if state["errors"]:
                    writer.write_table(pa.Table.from_pylist(state["errors"], ERROR_SCHEMA))

    write_whole(folder / ERRORS, write)
    kept = {file for shard in shards for file in shard.files} | {f"parts/{name}.json" for name in names}
    _remove(folder, "", but=kept | {f"parts/{_SETTINGS}"})
    before = (folder / MANIFEST).read_bytes() if (folder / MANIFEST).is_file() else b""
    manifest = write_manifest(
        folder, shards, settings.format, {"errors": errors, "codec": settings.sound.codec, **about}
    )
    if not (folder / CARD).is_file() or (folder / MANIFEST).read_bytes() != before:
        write_card(folder)  # says to `datasets` which files are which split
    return manifest


def _read_state(path: Path, folder: Path, fresh: dict) -> dict:
    """What is noted of a part, if it is of the same records and its shards are there; else `fresh`."""
    if not path.is_file():
        return fresh
    state = json.loads(path.read_text(encoding="utf-8"))
    files = {name: facts for shard in state["shards"] for name, facts in shard["files"].items()}
    whole = all((folder / name).is_file() and (folder / name).stat().st_size == files[name]["bytes"] for name in files)
    return state if whole and state["inputs"] == fresh["inputs"] else fresh


def _remove(folder: Path, name: str, but: Iterable[str]) -> None:
    """Files of a part, or of all, that nothing refers to."""
    for kind in ("data", "index", "parts"):
        for path in (folder / kind).glob(f"{name}*"):
            if path.relative_to(folder).as_posix() not in but:
                path.unlink()
                (folder / MANIFEST).unlink(missing_ok=True)  # it would list what is gone


def _error_row(item: Record | RecordError, problem: RecordError | ClipError) -> dict:
    name, source = (item.id, item.source) if isinstance(item, Record) else (item.record, "")
    stage = problem.stage if isinstance(problem, ClipError) else "record"
    return {"id": str(name), "source": str(source), "stage": stage, "reason": str(problem)}


def _write_json(path: Path, value: dict) -> None:
    write_whole(path, lambda file: file.write(json.dumps(value, indent=1).encode()))


def _place(name: str) -> tuple[int, int]:
    split, _, number = name.partition("-")
    return SPLITS.index(split), int(number)
