"""Shards: the files a corpus consists of, parquet or WebDataset tar, each whole, listed and checksummed.

    corpus/
        data/train-00000-000.parquet     records, sound embedded; or .tar: <key>.flac and <key>.json of each record
        index/train-00000-000.parquet    of a .tar: all columns but the sound, and where in the tar it lies
        manifest.json                    schema version, and of every file its size and SHA-256
        errors.parquet                   what could not be used, and why

`load_corpus`, `datasets` (streaming or not) and, for tars, every reader of WebDataset open such a folder.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_whole
from .encoding import extension
from .records import FEATURES, SCHEMA_KEY, SCHEMA_VERSION, Record, arrow_schema, check_schema, repeated, validate

MANIFEST = "manifest.json"
FORMATS = {"parquet": "parquet", "webdataset": "tar"}  # and the suffix of their files
_ROW_GROUP_BYTES = 16_000_000  # what a reader of one row group holds in memory
_INDEX_ROWS = 10_000
_TAR_HEADER = 512
_FILE = re.compile(r"(data|index)/[A-Za-z0-9][\w.-]*")  # of a shard, inside its corpus: nothing is read outside of it


@dataclasses.dataclass
class Shard:
    """A finished shard: its files (path inside the corpus -> {"bytes", "sha256"}) and what they hold."""

    split: str
    files: dict[str, dict]
    records: int
    seconds: float
    captions: int

    @property
    def data(self) -> str:
        """The path of its parquet or tar file inside the corpus."""
        return next(file for file in self.files if file.startswith("data/"))


class ShardProblem(NamedTuple):
    """What `verify` finds wrong with a file of a corpus."""

    file: str
    reason: str


def write_shards(
    records: Iterable[Record],
    folder: Path,
    name: str,
    format: str = "parquet",
    shard_bytes: int = 256_000_000,
    first: int = 0,
) -> Iterator[Shard]:
    """Writes records in their order and yields each shard once it is whole on the disk.

    Memory is bounded by one row group. The same records give the same bytes.

    Args:
        records: of one split, complete; each is validated.
        folder: of the corpus.
        name: of the shards, without their numbers.
        format: "parquet" or "webdataset".
        shard_bytes: a shard ends with the record that brings it to so many bytes of sound and text.
        first: number of the first shard.
    Raises:
        RecordError: a record that breaks the schema.
        ValueError: a format that does not exist; for WebDataset a record without embedded sound, or several kinds of
            sound files in a shard.
    """
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}; accepted are {sorted(FORMATS)}")
    write = {"parquet": _write_parquet, "webdataset": _write_tar}[format]
    records = iter(records)
    number = first
    while (one := next(records, None)) is not None:
        counted = _Counted(one, records, shard_bytes)
        files = write(counted, folder, f"{name}-{number:03d}")
        yield Shard(one.split, files, counted.records, round(counted.seconds, 6), counted.captions)
        number += 1


def read_manifest(folder: str | Path) -> dict:
    """What is in a corpus folder.

    Raises:
        FileNotFoundError: no manifest, so no finished corpus.
        ValueError: of another schema version, or not as it was written.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} holds no {MANIFEST}: no corpus, or one that is not finished; prepare it"
        )
    broken = f"{str(path)!r} is broken, or of another project; prepare the corpus again"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except (ValueError, TypeError, KeyError) as problem:
        raise ValueError(f"{broken} ({problem!r})") from problem
    if version != SCHEMA_VERSION:
        raise ValueError(f"{str(path)!r} has schema version {version!r}; this release reads {SCHEMA_VERSION}")
    try:
        whole = all(_is_whole(Shard(**shard)) for shard in manifest["shards"]) and manifest["format"] in FORMATS
    except (TypeError, KeyError, AttributeError) as problem:
        raise ValueError(f"{broken} ({problem!r})") from problem
    if not whole:
        raise ValueError(f"{broken}: its shards must be files of data/ and index/, with bytes and sha256")
    return manifest


def _is_whole(shard: Shard) -> bool:
    """Whether all that is said of a shard is of the right kind, and its files lie inside the corpus."""
    named = all(
        _FILE.fullmatch(file) and isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)
        for file, facts in shard.files.items()
    )
    kinds = sorted(file.split("/")[0] for file in shard.files)
    return named and kinds in (["data"], ["data", "index"]) and isinstance(shard.split, str)


def write_manifest(folder: Path, shards: Sequence[Shard], format: str, more: dict) -> dict:
    """Writes `manifest.json`, the last file of a corpus, and gives back what it says."""
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "format": format,
        "records": sum(shard.records for shard in shards),
        "captions": sum(shard.captions for shard in shards),
        "hours": round(sum(shard.seconds for shard in shards) / 3600, 6),
        "bytes": sum(file["bytes"] for shard in shards for file in shard.files.values()),
        **more,
        "shards": [dataclasses.asdict(shard) for shard in shards],
    }
    write_whole(folder / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))
    return manifest


def read_shards(folder: str | Path, split: str | None = None) -> list[Shard]:
    """The shards of a corpus in their order; of all splits unless one is named."""
    shards = [Shard(**shard) for shard in read_manifest(folder)["shards"]]
    return [shard for shard in shards if split in (None, shard.split)]


def read_rows(
    folder: str | Path, columns: Sequence[str] | None = None, split: str | None = None, batch: int = 64
) -> Iterator[dict]:
    """Rows of a corpus one after another, in bounded memory.

    Args:
        folder: of the corpus.
        columns: of `FEATURES`; only these are read. Default: all.
        split: default: all splits.
        batch: rows held at once.
    Raises:
        FileNotFoundError, ValueError: as `read_manifest`; a shard of another schema; an unknown column.
    """
    for shard in read_shards(folder, split):
        yield from read_shard(folder, shard, columns, batch)


def read_shard(
    folder: str | Path, shard: Shard, columns: Sequence[str] | None = None, batch: int = 64
) -> Iterator[dict]:
    """The rows of one shard; see `read_rows`."""
    columns = list(FEATURES) if columns is None else list(columns)
    if unknown := sorted(set(columns) - set(FEATURES)):
        raise ValueError(f"unknown columns {unknown}; a record has {list(FEATURES)}")
    read = _read_tar_rows if shard.data.endswith(".tar") else _read_parquet_rows
    try:
        yield from read(Path(folder), shard, columns, batch)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as problem:  # of damaged pages or tables
        raise ValueError(f"{shard.data} is broken: {problem}; run verify, and prepare the corpus again") from problem


def _read_parquet_rows(folder: Path, shard: Shard, columns: list[str], batch: int) -> Iterator[dict]:
    with pq.ParquetFile(folder / shard.data) as file:
        check_schema(file.schema_arrow, shard.data)
        for rows in file.iter_batches(batch, columns=columns):
            yield from rows.to_pylist()


def read_records(folder: str | Path, split: str | None = None, batch: int = 64) -> Iterator[Record]:
    """Whole records of a corpus one after another, validated; see `read_rows`."""
    for row in read_rows(folder, None, split, batch):
        yield validate(Record.from_row(row))


def verify(folder: str | Path, threads: int = 4) -> list[ShardProblem]:
    """Compares every file of a corpus with its manifest.

    Args:
        folder: of the corpus.
        threads: files read at once.
    Returns:
        One line for each file that is missing, changed, of another schema or not listed, and for ids that repeat;
        nothing where all is well.
    """
    folder = Path(folder)
    shards = read_shards(folder)
    wanted = {file: facts for shard in shards for file, facts in shard.files.items()}
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda file: _check_file(folder / file, wanted[file]), wanted)
        problems = [ShardProblem(file, reason) for file, reason in zip(wanted, found, strict=True) if reason]
    there = {path.relative_to(folder).as_posix() for kind in ("data", "index") for path in (folder / kind).glob("*")}
    problems += [ShardProblem(file, "is not in the manifest") for file in sorted(there - set(wanted))]
    # Ids are compared only where all files are as they were written.
    return problems or [ShardProblem(MANIFEST, f"id {name!r} occurs more than once") for name in repeated_ids(folder)]


def repeated_ids(folder: str | Path) -> list[str]:
    """Ids that several records of a corpus have. Takes 8 bytes of memory per record."""
    return sorted(repeated(lambda: (row["id"] for row in read_rows(folder, ["id"], batch=4096))))


class _Counted:
    """The records of one shard: ends with the one that fills it."""

    def __init__(self, one: Record, rest: Iterator[Record], limit: int):
        self.one, self.rest, self.limit = one, rest, limit
        self.records, self.captions, self.seconds, self.bytes = 0, 0, 0.0, 0

    def __iter__(self) -> Iterator[tuple[Record, int]]:
        record = self.one
        while record is not None:
            validate(record)
            size = len(record.audio["bytes"] or b"") + sum(len(caption.text) for caption in record.captions) + 500
            self.records += 1
            self.captions += len(record.captions)
            self.seconds += record.duration
            self.bytes += size
            yield record, size
            record = next(self.rest, None) if self.bytes < self.limit else None


def _write_parquet(records: _Counted, folder: Path, name: str) -> dict[str, dict]:
    def write(file: BinaryIO) -> None:
        with _parquet_writer(file, arrow_schema()) as writer:
            rows, held = [], 0
            for record, size in records:
                rows.append(record.to_row())
                held += size
                if held >= _ROW_GROUP_BYTES:
                    writer.write_table(pa.Table.from_pylist(rows, arrow_schema()))
                    rows, held = [], 0
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, arrow_schema()))

    return _written(folder, f"data/{name}.parquet", write)


def _write_tar(records: _Counted, folder: Path, name: str) -> dict[str, dict]:
    """The tar and its index. Keys are numbers, since ids may hold what names of files may not."""
    index, kinds = [], set()

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (record, _) in enumerate(records):
                content = record.audio["bytes"]
                if content is None:
                    raise ValueError(
                        f"record {record.id!r} has no embedded sound; a tar needs it: choose another codec"
                    )
                kinds.add(kind := extension(record.audio))
                if len(kinds) > 1:
                    raise ValueError(
                        f"record {record.id!r} is {kind}, others of its shard are {sorted(kinds - {kind})}; readers of "
                        "WebDataset want one kind: choose codec 'flac' or 'opus'"
                    )
                key = f"{name}-{number:07d}"
                facts = {column: value for column, value in record.to_row().items() if column != "audio"}
                index.append({"key": key, "offset": tar.offset + _TAR_HEADER, "size": len(content), **facts})
                for suffix, member in ((kind, content), ("json", json.dumps(facts, ensure_ascii=False).encode())):
                    header = tarfile.TarInfo(f"{key}.{suffix}")
                    header.size = len(member)
                    tar.addfile(header, io.BytesIO(member))

    data = f"data/{name}.tar"
    files = _written(folder, data, write)
    shard = Path(data).name

    def write_index(file: BinaryIO) -> None:
        with _parquet_writer(file, index_schema()) as writer:
            for start in range(0, len(index), _INDEX_ROWS):
                rows = [{"shard": shard, **row} for row in index[start : start + _INDEX_ROWS]]
                writer.write_table(pa.Table.from_pylist(rows, index_schema()))

    return files | _written(folder, f"index/{name}.parquet", write_index)


def index_schema() -> pa.Schema:
    """Of the index of a tar: key, shard, offset and size in bytes of its sound, and the record without the sound."""
    schema = arrow_schema()
    fields = [field for field in schema if field.name != "audio"]
    places = [("key", pa.string()), ("shard", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]
    return pa.schema([*map(pa.field, *zip(*places, strict=True)), *fields], {SCHEMA_KEY: schema.metadata[SCHEMA_KEY]})


def _parquet_writer(file: BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """No dictionary and no statistics of the sound, which nothing makes smaller."""
    columns = [name for name in ("id", "source", "split", "duration") if name in schema.names]
    return pq.ParquetWriter(
        file, schema, compression="zstd", compression_level=1, use_dictionary=False, write_statistics=columns
    )


def _written(folder: Path, name: str, write) -> dict[str, dict]:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, write)
    return {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}}


def _read_tar_rows(folder: Path, shard: Shard, columns: list[str], batch: int) -> Iterator[dict]:
    index = next((file for file in shard.files if file.startswith("index/")), None)
    if index is None:
        raise ValueError(f"{shard.data} has no index in the manifest; prepare the corpus again")
    wanted = [column for column in columns if column != "audio"]
    with pq.ParquetFile(folder / index) as file, open(folder / shard.data, "rb") as tar:
        if not file.schema_arrow.remove_metadata().equals(index_schema().remove_metadata()):
            raise ValueError(f"{index} is no index of schema version {SCHEMA_VERSION}")
        length = os.path.getsize(folder / shard.data)
        for rows in file.iter_batches(batch, columns=[*wanted, "key", "offset", "size"]):
            for row in rows.to_pylist():
                key, offset, size = row.pop("key"), row.pop("offset"), row.pop("size")
                if "audio" in columns:
                    if None in (key, offset, size) or not _TAR_HEADER <= offset <= offset + size <= length or size < 0:
                        raise ValueError(f"{index} places {key!r} outside of {shard.data}; run verify")
                    tar.seek(offset - _TAR_HEADER)
                    name = tar.read(_TAR_HEADER)[:100].rstrip(b"\0").decode(errors="replace")
                    if not name.startswith(f"{key}."):
                        raise ValueError(f"{shard.data} has {name!r} where its index has {key!r}; run verify")
                    row["audio"] = {"bytes": tar.read(size), "path": name}
                yield row


def _check_file(path: Path, facts: dict) -> str | None:
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != facts["bytes"]:
        return f"has {path.stat().st_size} bytes, the manifest says {facts['bytes']}"
    return None if _sha256(path) == facts["sha256"] else "does not have the SHA-256 of the manifest"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
