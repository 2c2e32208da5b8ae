"""A corpus of captioned sound as a `datasets.Dataset` with known columns, from a file, a folder or the Hub."""

import glob
import io
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import soundfile
from datasets import Audio, Dataset, DatasetDict
from tqdm.auto import tqdm

from .record_corpus import (
    is_corpus_folder,
    is_record_corpus,
    join_corpora,
    open_corpus_folder,
    unpack_webdataset,
    with_texts,
)

logger = logging.getLogger(__name__)

CAPTION_COLUMNS = ("captions", "caption", "text")
_ACCEPTED = (
    "accepted are .parquet files (one, a list, or a glob), a folder (parquet files, sound files with a metadata.csv or "
    "metadata.jsonl, WebDataset tars, or `save_to_disk`), and a dataset id on the Hub"
)
_MOST_LISTED = 50
_TABLES = {"metadata.csv": "csv", "metadata.jsonl": "json"}


def load_corpus(
    source: str | os.PathLike | Sequence[str | os.PathLike] | Dataset | DatasetDict,
    split: str | None = None,
    *,
    audio_column: str | None = None,
    caption_column: str | None = None,
    allow_empty: bool = False,
    name: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """Opens a corpus and gives its columns the names that training expects. No sound is decoded.

    Durations that are missing are read from the files' headers; clips whose header cannot be read are dropped, counted
    and listed in the log.

    Args:
        source: a parquet file, several, or a glob; a folder, what `prepare` writes and WebDataset tars too; a dataset
            id on the Hub; a dataset already open; or a list of any of these, joined in this order with the columns they
            share.
        split: which split, slices such as "train[:100]" too. Needed only where there are several. Files given by name
            are all of them the split "train".
        audio_column: default: the column of type Audio, else the one named "audio".
        caption_column: a column of strings or of lists of strings; default: the first there is of `CAPTION_COLUMNS`.
            It may be a column of labels, class numbers too: their names are then the captions.
        allow_empty: keep rows without a caption, with an empty list: clips that have none of several labels.
        name: configuration of a Hub dataset.
        revision: commit, tag or branch of a Hub dataset.
        cache_dir: where datasets keeps its files; default: its own choice.
    Returns:
        Columns "id" (str; the row number where there is none), "audio" ({"bytes", "path"}, not decoded), "captions"
        (list[str], none empty), "duration" (float, s), "source" (str, where a clip comes from: that column, else
        "package", else ""), then the others as they came. A "label" of class numbers becomes one of names.
    Raises:
        FileNotFoundError: no such file, folder or Hub dataset, or a folder without anything to read.
        ValueError: an unknown split or several and none chosen, no audio column, no captions, a row without a caption,
            no row at all, or not one readable clip.
    """
    if isinstance(source, list | tuple) and not all(map(_names_parquet, source)):
        keywords = {"audio_column": audio_column, "caption_column": caption_column, "allow_empty": allow_empty}
        keywords |= {"name": name, "revision": revision, "cache_dir": cache_dir}
        corpora = [load_corpus(item, split, **keywords) for item in source]
        return join_corpora(corpora, [str(item) if isinstance(item, str | os.PathLike) else "" for item in source])
    where = "the corpus" if isinstance(source, Dataset | DatasetDict) else f"corpus {source!r}"
    corpus = open_source(source, split, name, revision, cache_dir).with_format(None)
    if not {audio_column, caption_column} & set(corpus.column_names):  # else they name columns of the tars themselves
        corpus = unpack_webdataset(corpus)
    if len(corpus) == 0:
        raise ValueError(f"{where} has no rows")
    if is_record_corpus(corpus) and audio_column is None and caption_column is None:
        return with_texts(corpus, where)

    audio_column = find_audio_column(corpus, audio_column, where)
    caption_column = _find_caption_column(corpus, caption_column, where)
    captions = _read_captions(corpus, caption_column, where, allow_empty)
    names = corpus.column_names
    ids = list(map(str, corpus["id"])) if "id" in names else list(map(str, range(len(corpus))))
    durations = _read_durations(corpus, where)
    label = corpus.features.get("label")
    labels = label.int2str(corpus["label"]) if isinstance(label, datasets.ClassLabel) else None
    origin = next((column for column in ("source", "package") if column in names), None)
    sources = ["" if value is None else str(value) for value in corpus[origin]] if origin else [""] * len(corpus)

    replaced = {caption_column, "captions", "id", "duration", "source"} | ({"label"} if labels is not None else set())
    replaced |= {"audio"} - {audio_column}
    # Renamed and left out at the end: datasets cannot add columns to a table whose added columns were all removed.
    old_names = {column: f"replaced {column}" for column in names if column in replaced}
    corpus = corpus.rename_columns(old_names)
    if audio_column != "audio":
        corpus = corpus.rename_column(audio_column, "audio")
    corpus = corpus.cast_column("audio", Audio(decode=False))

    unread = [row for row, seconds in enumerate(durations) if seconds is None]
    measured, problems = measure_durations(corpus, unread, ids)
    for row, seconds in zip(unread, measured, strict=True):
        durations[row] = seconds
    kept = [row for row, seconds in enumerate(durations) if seconds is not None]
    if problems:
        lines = [f"  {clip}: {reason}" for clip, reason in problems[:_MOST_LISTED]]
        if len(problems) > _MOST_LISTED:
            lines.append(f"  ... and {len(problems) - _MOST_LISTED} more")
        message = f"{where}: {len(problems)} of {len(durations)} clips cannot be read and are dropped:"
        logger.warning("\n".join([message, *lines]))
        if not kept:
            raise ValueError("\n".join([f"{where}: not one of {len(durations)} clips can be read:", *lines]))

    corpus = corpus.add_column("id", ids)
    corpus = corpus.add_column("captions", captions)
    corpus = corpus.add_column("duration", [math.nan if seconds is None else seconds for seconds in durations])
    corpus = corpus.add_column("source", sources)
    if labels is not None:
        corpus = corpus.add_column("label", labels)
    first = ["id", "audio", "captions", "duration", "source"]
    left_out = {*first, *old_names.values()}
    corpus = corpus.select_columns(first + [column for column in corpus.column_names if column not in left_out])
    return corpus.select(kept) if problems else corpus


def measure_durations(
    corpus: Dataset, rows: Sequence[int] | None = None, ids: Sequence[str] | None = None
) -> tuple[list[float | None], list[tuple[str, str]]]:
    """Reads the lengths of clips from their headers, with a progress bar.

    Args:
        corpus: has a column "audio" that is not decoded.
        rows: which rows; default: all.
        ids: of all rows of the corpus, for the report; default: row numbers.
    Returns:
        Seconds per asked row, None where the header cannot be read; and (id, reason) of those.
    """
    rows = range(len(corpus)) if rows is None else rows
    if not len(rows):
        return [], []
    durations, problems = [], []
    only_audio = corpus.select_columns(["audio"])
    for row in tqdm(rows, desc="reading durations", unit="clip", disable=None):
        try:
            durations.append(_header_seconds(only_audio[row]["audio"]))
        except (OSError, RuntimeError, ValueError) as problem:  # soundfile's own errors are RuntimeErrors
            durations.append(None)
            problems.append((str(ids[row] if ids is not None else row), str(problem)))
    return durations, problems


def _header_seconds(audio: dict | None) -> float:
    if not audio or (audio["bytes"] is None and not audio["path"]):
        raise ValueError("neither bytes nor a path")
    if audio["bytes"] is None and not os.path.isfile(audio["path"]):
        raise FileNotFoundError(f"no file {audio['path']!r}")
    try:
        info = soundfile.info(io.BytesIO(audio["bytes"]) if audio["bytes"] is not None else audio["path"])
        seconds = info.frames / info.samplerate
    except soundfile.LibsndfileError as problem:
        seconds = _torchcodec_seconds(audio["bytes"] if audio["bytes"] is not None else audio["path"], problem)
    if not 0 < seconds < math.inf:
        raise ValueError(f"a length of {seconds} s")
    return seconds


def _torchcodec_seconds(content: bytes | str, problem: Exception) -> float:
    """For formats that libsndfile does not know (m4a, webm); `problem` is raised again where torchcodec is missing."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError):  # not installed, or without its FFmpeg
        raise problem from None
    return AudioDecoder(content).metadata.duration_seconds_from_header or 0.0


def _names_parquet(item) -> bool:
    return isinstance(item, str | os.PathLike) and os.fspath(item).endswith(".parquet")


def open_source(source, split: str | None, name: str | None = None, revision: str | None = None, cache_dir=None):
    """The rows of a source of `load_corpus`, with the columns that it has."""
    if isinstance(source, Dataset):
        return source
    if isinstance(source, DatasetDict):
        return _one_split(source, split, "the corpus")
    if isinstance(source, str | os.PathLike):
        source = os.fspath(source)
        path = Path(source).expanduser()
        if path.is_dir():
            return _open_folder(path, split, cache_dir)
        if not path.is_file() and not any(sign in source for sign in "*?["):
            if path.suffix or path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
                raise FileNotFoundError(f"no file or folder {source!r}; {_ACCEPTED}")
            return _open_hub(source, split, name, revision, cache_dir)
        source = [source]
    elif not isinstance(source, Sequence) or not source:
        raise ValueError(f"a corpus source of type {type(source).__name__}, {source!r}; {_ACCEPTED}")

    files = []
    for item in map(os.fspath, source):
        item = os.path.expanduser(item)
        found = [item] if os.path.isfile(item) else sorted(glob.glob(item, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file {item!r}; {_ACCEPTED}")
        files += found
    if other := [file for file in files if not file.endswith(".parquet")]:
        raise ValueError(f"{other[0]!r} is not a .parquet file; {_ACCEPTED}")
    return _load(f"files {files}", split, "parquet", data_files={"train": files}, cache_dir=cache_dir)


def _open_folder(path: Path, split: str | None, cache_dir) -> Dataset:
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        saved = datasets.load_from_disk(str(path))
        return _one_split(saved, split, f"folder {str(path)!r}") if isinstance(saved, DatasetDict) else saved
    if is_corpus_folder(path):
        return open_corpus_folder(path, split, cache_dir)
    for name, kind in _TABLES.items():
        if (path / name).is_file():
            return _open_table(path, name, kind, split, cache_dir)
    if any(path.glob("metadata.*")) and not any(path.glob("*.parquet")):
        return _load(f"folder {str(path)!r}", split, "audiofolder", data_dir=str(path), cache_dir=cache_dir)
    try:
        return _load(f"folder {str(path)!r}", split, str(path), cache_dir=cache_dir)
    except FileNotFoundError as problem:
        raise FileNotFoundError(f"folder {str(path)!r} holds nothing to read; {_ACCEPTED}") from problem


def _open_table(path: Path, name: str, kind: str, split: str | None, cache_dir) -> Dataset:
    """Sound files and the table that describes them, as `audiofolder` reads them, which needs torchcodec to do so."""
    what = f"folder {str(path)!r}"
    table = _load(what, split, kind, data_files={"train": str(path / name)}, cache_dir=cache_dir)
    if "file_name" not in table.column_names:
        raise ValueError(f"{what}: {name} has no column 'file_name'; its columns are {table.column_names}")
    columns = {**table.to_dict(), "file_name": [str(path / file) for file in table["file_name"]]}
    features = datasets.Features({**table.features, "file_name": datasets.Value("string")})
    table = Dataset.from_dict(columns, features=features, split=table.split)
    return table.rename_column("file_name", "audio").cast_column("audio", Audio(decode=False))


def _open_hub(source: str, split: str | None, name: str | None, revision: str | None, cache_dir) -> Dataset:
    try:
        return _load(f"Hub dataset {source!r}", split, source, name=name, revision=revision, cache_dir=cache_dir)
    except (FileNotFoundError, ConnectionError) as problem:
        raise FileNotFoundError(
            f"{source!r} is no file or folder here, and no dataset of that id can be had from the Hub "
            f"({problem}); {_ACCEPTED}"
        ) from problem


def _load(what: str, split: str | None, *arguments, **keywords) -> Dataset:
    try:
        loaded = datasets.load_dataset(*arguments, split=split, **keywords)
    except ValueError as problem:
        if "corresponds to no data" in str(problem):
            raise ValueError(f"{what} has no rows") from problem
        if "nknown split" in str(problem):
            raise ValueError(f"{what} has no split {split!r}: {problem}") from problem
        raise
    return loaded if isinstance(loaded, Dataset) else _one_split(loaded, None, what)


def _one_split(splits: DatasetDict, split: str | None, what: str) -> Dataset:
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split not in splits:
        chosen = "none was chosen" if split is None else f"there is no {split!r}"
        raise ValueError(f"{what} has splits {sorted(splits)} and {chosen}; pass split=...")
    return splits[split]


def find_audio_column(corpus: Dataset, wanted: str | None, where: str) -> str:
    columns = corpus.column_names
    if wanted is not None:
        if wanted not in columns:
            raise ValueError(f"{where} has no column {wanted!r}; its columns are {columns}")
        return wanted
    typed = [column for column, feature in corpus.features.items() if isinstance(feature, Audio)]
    if "audio" in columns:
        return "audio"
    if len(typed) == 1:
        return typed[0]
    problem = f"several audio columns {typed}" if typed else "no audio column"
    raise ValueError(f"{where} has {problem}; its columns are {columns}; name one with audio_column=...")


def _find_caption_column(corpus: Dataset, wanted: str | None, where: str) -> str:
    columns = corpus.column_names
    found = [column for column in ([wanted] if wanted else CAPTION_COLUMNS) if column in columns]
    if not found:
        looked_for = repr(wanted) if wanted else f"any of {list(CAPTION_COLUMNS)}"
        raise ValueError(
            f"{where} has no captions: looked for {looked_for}, its columns are {columns}; "
            "name the column of strings or lists of strings with caption_column=..."
        )
    return found[0]


def _read_captions(corpus: Dataset, column: str, where: str, allow_empty: bool) -> list[list[str]]:
    captions, without = [], []
    feature = corpus.features[column]
    classes = getattr(feature, "feature", feature)  # those of a list, or of the column itself
    for row, value in enumerate(corpus[column]):
        if isinstance(classes, datasets.ClassLabel) and value is not None:
            value = classes.int2str(value)
        values = [value] if isinstance(value, str) or value is None else value
        if not isinstance(values, Sequence) or any(not isinstance(text, str | None) for text in values):
            raise ValueError(
                f"{where}, row {row}: column {column!r} holds {value!r}; expected a string or a list of strings"
            )
        captions.append([text.strip() for text in values if text and text.strip()])
        if not captions[-1]:
            without.append(row)
    if without and not allow_empty:
        raise ValueError(
            f"{where}: {len(without)} of {len(captions)} rows have no caption in column {column!r}, the first is "
            f"row {without[0]}; remove these rows"
        )
    return captions


def _read_durations(corpus: Dataset, where: str) -> list[float | None]:
    """Seconds per row, None where the header must be read."""
    if "duration" not in corpus.column_names:
        return [None] * len(corpus)
    given = list(corpus["duration"])
    if wrong := [value for value in given if value is not None and not isinstance(value, int | float)]:
        raise ValueError(f"{where}: column 'duration' holds {wrong[0]!r}; expected seconds as a number")
    return [float(value) if value is not None and 0 < value < math.inf else None for value in given]
