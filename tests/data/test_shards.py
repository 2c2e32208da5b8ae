"""Shards hold what was written, in bounded pieces, are read by others, and tell when they are broken."""

import dataclasses
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest

from hf_slap.data import PretrainDataset, load_corpus
from hf_slap.data.batching import ClipRef
from hf_slap.data.encoding import SoundSettings
from hf_slap.data.preparing import PrepareSettings, prepare
from hf_slap.data.records import FEATURES, RecordError
from hf_slap.data.shards import read_manifest, read_records, read_rows, read_shards, verify, write_shards
from hf_slap.objectives import draw_patch_mask

FORMATS = ("parquet", "webdataset")


@pytest.fixture(scope="module")
def corpora(records, tmp_path_factory) -> dict:
    """The 13 clips in both formats, in shards of about 60 kB."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FORMATS}
    for name, folder in folders.items():
        settings = PrepareSettings(SoundSettings("flac"), name, shard_bytes=60_000)
        prepare(records, folder, settings, workers=1)
    return folders


@pytest.fixture(params=FORMATS)
def folder(request, corpora):
    return corpora[request.param]


def test_every_record_comes_back_in_order(folder, records):
    there = list(read_records(folder, batch=3))
    assert [record.id for record in there] == [record.id for record in records]
    for record, made in zip(records, there, strict=True):
        assert made.audio["bytes"][:4] == b"fLaC"
        same = ("source", "source_id", "captions", "labels", "split", "license", "redistributable", "segment")
        assert all(getattr(made, name) == getattr(record, name) for name in same)
    assert [row["id"] for row in read_rows(folder, ["id"], split="test")] == [record.id for record in records[10:]]
    with pytest.raises(ValueError, match=r"unknown columns \['caption'\]"):
        next(read_rows(folder, ["caption"]))


def test_both_formats_hold_the_same(corpora):
    ours, theirs = (list(read_records(corpora[name])) for name in FORMATS)
    for one, other in zip(ours, theirs, strict=True):
        assert one.audio["bytes"] == other.audio["bytes"]
        assert {**one.to_row(), "audio": None} == {**other.to_row(), "audio": None}


def test_shards_end_by_bytes_and_the_manifest_adds_up(folder, records):
    shards, manifest = read_shards(folder), read_manifest(folder)
    assert [shard.split for shard in shards] == sorted((shard.split for shard in shards), reverse=True)
    sizes = [sum(len(row["audio"]["bytes"]) for row in read_records_of(folder, shard)) for shard in shards[:-1]]
    largest = max(len(record.audio["bytes"]) for record in read_records(folder))
    assert len(shards) >= 4 and all(size < 60_000 + largest for size in sizes)
    assert manifest["records"] == sum(shard.records for shard in shards) == len(records)
    assert manifest["captions"] == sum(len(record.captions) for record in records)
    assert manifest["hours"] == pytest.approx(sum(record.duration for record in read_records(folder)) / 3600, abs=1e-5)
    assert manifest["bytes"] == sum((folder / file).stat().st_size for shard in shards for file in shard.files)


def read_records_of(folder, shard) -> list[dict]:
    rows = list(read_rows(folder, split=shard.split))
    before = 0
    for other in read_shards(folder, shard.split):
        if other.data == shard.data:
            return rows[before : before + shard.records]
        before += other.records
    raise AssertionError


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_reads_the_parquet_folder_with_the_features_of_a_record(corpora, streaming, records, tmp_path):
    splits = datasets.load_dataset(str(corpora["parquet"]), streaming=streaming, cache_dir=str(tmp_path))
    assert set(splits) == {"train", "test"}
    assert splits["train"].features == FEATURES
    rows = list(splits["test"])
    assert [row["id"] for row in rows] == [record.id for record in records[10:]]
    assert rows[0]["captions"][0]["text"] == records[10].captions[0].text
    assert rows[0]["audio"]["bytes"][:4] == b"fLaC"


def test_datasets_streams_the_tars_as_webdataset(corpora, records):
    stream = datasets.load_dataset(str(corpora["webdataset"]), split="train", streaming=True)
    stream = stream.cast_column("flac", datasets.Audio(decode=False))
    rows = list(stream)
    assert [row["json"]["id"] for row in rows] == [record.id for record in records[:10]]
    assert rows[3]["flac"]["bytes"] == list(read_records(corpora["webdataset"]))[3].audio["bytes"]


def test_training_reads_either_and_hears_the_same(corpora, records, extractor, tmp_path):
    heard = {}
    for name in FORMATS:
        corpus = load_corpus(corpora[name], "train", cache_dir=tmp_path)
        assert corpus.column_names[:4] == ["id", "audio", "captions", "duration"]
        assert corpus["captions"][2] == [caption.text for caption in records[2].captions]
        assert corpus["label"][:] == [record.labels[0] for record in records[:10]]
        assert set(corpus["source"]) == {"shipped", "other"}
        heard[name] = PretrainDataset(corpus, extractor, draw_patch_mask)[ClipRef(0, 3, 2)]
    assert (corpus[0]["audio"]["bytes"], "#bytes=512-" in corpus[0]["audio"]["path"]) == (
        None,
        True,
    )  # nothing is copied
    first, second = heard.values()
    np.testing.assert_array_equal(first.features, second.features)
    assert first.caption == second.caption


def test_a_webdataset_that_datasets_has_opened_is_a_corpus_too(corpora, records, tmp_path):
    opened = datasets.load_dataset(str(corpora["webdataset"]), split="test", cache_dir=str(tmp_path))
    corpus = load_corpus(opened)
    assert corpus["id"][:] == [record.id for record in records[10:]]
    assert corpus["captions"][1] == [caption.text for caption in records[11].captions]
    assert corpus[1]["audio"]["bytes"][:4] == b"fLaC"


def test_a_list_of_corpora_becomes_one(corpora, shipped, tmp_path):
    whole = load_corpus([corpora["parquet"], shipped / "heldout.parquet"], split="train", cache_dir=tmp_path)
    assert len(whole) == 10 + 103
    assert {"id", "audio", "captions", "duration", "source", "label"} <= set(whole.column_names)
    assert "source_id" not in whole.column_names  # only one of them has it
    assert {"shipped", "other"} < set(whole["source"])
    with pytest.raises(ValueError, match="has splits .*'test', 'train'.* pass split="):
        load_corpus(corpora["parquet"])


def test_a_changed_missing_or_foreign_file_is_found(corpora, tmp_path):
    for name, source in corpora.items():
        folder = tmp_path / name
        shutil.copytree(source, folder)
        assert verify(folder) == []
        shards = read_shards(folder)
        path = folder / shards[0].data
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        (folder / shards[1].data).unlink()
        (folder / "data" / "train-99999-000.parquet").write_bytes(b"")
        assert [(problem.file, problem.reason) for problem in verify(folder)] == [
            (shards[0].data, "does not have the SHA-256 of the manifest"),
            (shards[1].data, "is missing"),
            ("data/train-99999-000.parquet", "is not in the manifest"),
        ]


def test_an_index_that_points_elsewhere_is_found(corpora, tmp_path):
    folder = tmp_path / "corpus"
    shutil.copytree(corpora["webdataset"], folder)
    index = next(file for file in read_shards(folder)[0].files if file.startswith("index/"))
    table = pq.read_table(folder / index)
    moved = table.set_column(2, "offset", [[offset + 512 for offset in table["offset"].to_pylist()]])
    pq.write_table(moved.cast(table.schema), folder / index)
    with pytest.raises(ValueError, match="run verify"):
        list(read_records(folder))


def test_repeated_ids_are_found(records, tmp_path):
    prepare([*records, records[4]], tmp_path, PrepareSettings(), workers=1)
    assert verify(tmp_path) == [("manifest.json", f"id {records[4].id!r} occurs more than once")]


def test_what_cannot_be_a_shard_is_refused(corpora, tmp_path):
    [flac, other, *_] = read_records(corpora["parquet"])
    with pytest.raises(ValueError, match="format is 'zip'"):
        list(write_shards([flac], tmp_path, "train-00000", "zip"))
    with pytest.raises(RecordError, match="duration"):
        list(write_shards([dataclasses.replace(flac, duration=None)], tmp_path, "train-00000"))
    ogg = dataclasses.replace(other, audio={"bytes": b"OggS" + bytes(99), "path": "x.ogg"})
    with pytest.raises(ValueError, match="is ogg, others of its shard are \\['flac'\\]"):
        list(write_shards([flac, ogg], tmp_path, "train-00000", "webdataset"))
    by_path = dataclasses.replace(other, audio={"bytes": None, "path": "x.ogg"})
    with pytest.raises(ValueError, match="no embedded sound"):
        list(write_shards([by_path], tmp_path, "train-00000", "webdataset"))
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.tar"))
