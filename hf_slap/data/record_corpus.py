"""Corpora of records as `load_corpus` gives them: texts for captions, nothing measured, in bounded memory."""

import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Audio, Dataset, Features, Value, concatenate_datasets

from .shards import MANIFEST, read_manifest, read_shards

_BATCH = 10_000  # rows whose texts are held at once


def is_corpus_folder(folder: Path) -> bool:
    """Whether a folder was written by `prepare`."""
    return (folder / MANIFEST).is_file()


def open_corpus_folder(folder: Path, split: str | None, cache_dir: str | os.PathLike | None = None) -> Dataset:
    """The records of a corpus that `prepare` wrote.

    Of WebDataset shards only the index is read; the sounds stay in the tars, and their paths say where
    ("train.tar#bytes=512-4285"), so that any clip is one read away and nothing is copied.

    Args:
        folder: of the corpus.
        split: needed where there are several; with a slice too ("train[:100]").
        cache_dir: where datasets keeps its files.
    Raises:
        FileNotFoundError, ValueError: see `read_manifest`; an unknown split, or several and none chosen.
    """
    wanted = (split or "").partition("[")[0] or None
    splits = sorted({shard.split for shard in read_shards(folder)})
    if wanted not in splits and (wanted or len(splits) != 1):
        raise ValueError(f"corpus {str(folder)!r} has splits {splits}, asked for is {split!r}; pass split=...")
    wanted = wanted or splits[0]
    shards = read_shards(folder, wanted)
    if read_manifest(folder)["format"] == "webdataset":
        files = [str(folder / file) for shard in shards for file in shard.files if file.startswith("index/")]
    else:
        files = [str(folder / shard.data) for shard in shards]
    split = split or wanted
    corpus = datasets.load_dataset("parquet", data_files={wanted: files}, split=split, cache_dir=cache_dir)
    return _with_places(corpus, folder) if "shard" in corpus.column_names else corpus


def unpack_webdataset(corpus: Dataset) -> Dataset:
    """Columns as tables have them, where a dataset is what `datasets` makes of tars of clips.

    The sound becomes "audio", the fields of "json" become columns, and where these have none, "txt" is the "caption"
    and "__key__" the "id".
    """
    sounds = [name for name, feature in corpus.features.items() if isinstance(feature, Audio)]
    if "__key__" not in corpus.column_names or len(sounds) != 1:
        return corpus
    parts = [corpus.select_columns(sounds).rename_column(sounds[0], "audio").cast_column("audio", Audio(decode=False))]
    fields: list[str] = []
    if isinstance(corpus.features.get("json"), dict):
        facts = corpus.select_columns(["json"]).flatten()
        facts = facts.rename_columns({name: name.removeprefix("json.") for name in facts.column_names})
        fields = [name for name in facts.column_names if name != "audio"]
        parts.append(facts.select_columns(fields))
    for name, called in (("__key__", "id"), ("txt", "caption")):
        if name in corpus.column_names and called not in fields:
            parts.append(corpus.select_columns([name]).rename_column(name, called))
    return concatenate_datasets(parts, axis=1)


def is_record_corpus(corpus: Dataset) -> bool:
    """Whether captions are those of records: a list of structs with a text."""
    captions = getattr(corpus.features.get("captions"), "feature", None)
    return isinstance(captions, dict) and "text" in captions and {"id", "audio", "duration"} <= set(corpus.column_names)


def with_texts(corpus: Dataset, where: str) -> Dataset:
    """Captions as texts, and a column "label" where every record has exactly one.

    Raises:
        ValueError: a record without a caption.
    """
    columns = ["captions", *(["labels"] if _one_label_each(corpus) else [])]
    features = {"captions": datasets.List(Value("string")), "label": Value("string")}

    def texts(table: pa.Table) -> pa.Table:
        captions = table["captions"].combine_chunks()
        if not pc.all(pc.greater(pc.list_value_length(captions), 0)).as_py():
            raise ValueError(f"{where} has a record without a caption; prepare it again, or remove these")
        offsets = pc.subtract(captions.offsets, captions.offsets[0])
        made = {"captions": pa.ListArray.from_arrays(offsets, captions.flatten().field("text"))}
        if "labels" in columns:
            made["label"] = pc.list_flatten(table["labels"])
        return pa.table(made)

    made = corpus.select_columns(columns).with_format("arrow")
    made = made.map(
        texts,
        batched=True,
        batch_size=_BATCH,
        remove_columns=columns,
        features=Features({name: features[name] for name in ("captions", *(["label"] if columns[1:] else []))}),
        desc="reading captions",
    ).with_format(None)
    first = ["id", "audio", "captions", "duration"]
    taken = {"captions", *made.column_names}
    others = corpus.select_columns([name for name in corpus.column_names if name not in taken])
    joined = concatenate_datasets([others.cast_column("audio", Audio(decode=False)), made], axis=1)
    return joined.select_columns(first + [name for name in joined.column_names if name not in first])


def join_corpora(corpora: Sequence[Dataset], names: Sequence[str]) -> Dataset:
    """One corpus after the other, with the columns they share; one that names no source gets its own name there.

    Args:
        corpora: from `load_corpus`.
        names: of each.
    """
    named = []
    for corpus, name in zip(corpora, names, strict=True):
        if corpus.unique("source") == [""]:
            corpus = corpus.remove_columns("source").add_column("source", [name] * len(corpus))
        named.append(corpus)
    first = named[0].features
    shared = [name for name in first if all(corpus.features.get(name) == first[name] for corpus in named)]
    return concatenate_datasets([corpus.select_columns(shared) for corpus in named])


def _with_places(corpus: Dataset, folder: Path) -> Dataset:
    """The index of tars as records whose sound is a part of a file."""
    data = f"{(folder / 'data').absolute()}{os.sep}"

    def places(table: pa.Table) -> pa.Table:
        last = pc.subtract(pc.add(table["offset"], table["size"]), 1)
        parts = [data, table["shard"], "#bytes=", table["offset"].cast(pa.string()), "-", last.cast(pa.string()), ""]
        paths = pc.binary_join_element_wise(*parts).combine_chunks()
        empty = pa.nulls(len(paths), pa.binary())
        return pa.table({"audio": pa.StructArray.from_arrays([empty, paths], ["bytes", "path"])})

    columns = ["key", "shard", "offset", "size"]
    sound = corpus.select_columns(columns).with_format("arrow")
    sound = sound.map(
        places,
        batched=True,
        batch_size=_BATCH,
        remove_columns=columns,
        features=Features({"audio": Audio(decode=False)}),
    )
    return concatenate_datasets([sound.with_format(None), corpus.remove_columns(columns)], axis=1)


def _one_label_each(corpus: Dataset) -> bool:
    """Whether every record has exactly one label; a corpus that has a column "label" of its own keeps it."""
    if "labels" not in corpus.column_names or "label" in corpus.column_names:
        return False
    labels = corpus.select_columns(["labels"]).with_format("arrow")
    lengths = (pc.list_value_length(table["labels"]) for table in labels.iter(_BATCH))
    return all(pc.all(pc.equal(length, 1)).as_py() for length in lengths)
