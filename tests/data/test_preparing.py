"""Preparing gives the same bytes however it is run or interrupted, does nothing twice, and reports what it leaves out."""

import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hf_slap.data import preparing
from hf_slap.data.encoding import SoundSettings
from hf_slap.data.preparing import PrepareSettings, prepare, prepare_part, summary
from hf_slap.data.records import Caption, RecordError
from hf_slap.data.shards import read_records, verify

SETTINGS = PrepareSettings(SoundSettings("flac"), "webdataset", shard_bytes=60_000, part_records=17)


def run_and_die(given: list, folder: Path) -> None:
    """Prepares on two processes; kills itself where two shards are there, in the middle of things."""

    def records():
        for number, record in enumerate(given):
            if number == len(given) - 18:  # all but the last parts are on their way
                while len(list((folder / "data").glob("*.tar"))) < 2:
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            yield record

    prepare(records(), folder, SETTINGS, workers=2)


@pytest.fixture(scope="module")
def many(records) -> list:
    """91 records: the 13 clips seven times, with ids of their own; one of them broken, and one that is no record."""
    many = [
        dataclasses.replace(record, id=f"{record.id}-{copy}", captions=[Caption(f"copy {copy}"), *record.captions])
        for copy in range(7)
        for record in records
    ]
    many[40] = dataclasses.replace(many[40], audio={"bytes": b"RIFF but nothing more", "path": "broken.wav"})
    return [*many[:20], RecordError("shipped/lost", "audio", None, "a file"), *many[20:]]


@pytest.fixture(scope="module")
def whole(many, tmp_path_factory) -> Path:
    """The corpus of an uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("whole") / "corpus"
    prepare(many, folder, SETTINGS, workers=1)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_cannot_be_used_is_a_line_of_the_report_and_the_rest_is_there(whole, many):
    errors = pq.read_table(whole / "errors.parquet").to_pylist()
    broken = many[41]
    assert [(row["id"], row["source"], row["stage"]) for row in errors] == [
        ("shipped/lost", "", "record"),
        (broken.id, broken.source, "read"),
    ]
    assert "accepted is a file" in errors[0]["reason"] and "soundfile says" in errors[1]["reason"]
    wanted = [record for record in many if not isinstance(record, RecordError) and record is not broken]
    there = list(read_records(whole))
    assert [record.id for record in there] == [
        record.id for split in ("train", "test") for record in wanted if record.split == split
    ]
    assert all(
        record.captions == other.captions
        for record, other in zip(there, sorted(wanted, key=lambda r: r.split != "train"), strict=True)
    )
    assert verify(whole) == []


def test_killed_in_the_middle_it_goes_on_to_the_same_bytes_and_makes_nothing_twice(whole, many, tmp_path):
    folder = tmp_path / "corpus"
    # Forked: the libraries are loaded already.
    process = multiprocessing.get_context("fork").Process(target=run_and_die, args=(many, folder))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (folder / "data" / ".writing-1-train-00000-000.tar").write_bytes(b"half")
    finished = {
        path: path.stat().st_mtime_ns
        for state in (folder / "parts").glob("train-*.json")
        for shard in json.loads(state.read_text())["shards"]
        for path in map(folder.joinpath, shard["files"])
    }
    assert finished and not (folder / "manifest.json").exists()
    prepare(many, folder, SETTINGS, workers=1)
    assert digests(folder) == digests(whole)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_a_part_goes_on_behind_its_last_whole_shard(whole, many, tmp_path, monkeypatch):
    part = next(preparing._parts(many, SETTINGS))
    numbers = itertools.count()

    def dies(record, sound, real=preparing.prepare_sound):
        if next(numbers) == len(part.items) - 2:
            raise KeyboardInterrupt
        return real(record, sound)

    for name in ("data", "index", "parts"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(preparing, "prepare_sound", dies)
    with pytest.raises(KeyboardInterrupt):
        prepare_part(part, tmp_path, SETTINGS)
    shards = len(list((tmp_path / "data").glob("*.tar")))
    in_shards = json.loads((tmp_path / "parts" / "train-00000.json").read_text())["consumed"]
    assert shards and 0 < in_shards < len(part.items) - 2
    made = next(numbers)
    prepare_part(part, tmp_path, SETTINGS)
    assert next(numbers) - made - 1 == len(part.items) - in_shards
    mine = digests(tmp_path)
    assert mine == {name: digest for name, digest in digests(whole).items() if name in mine}


def test_a_finished_corpus_is_left_as_it_is(whole, many, monkeypatch):
    def never(*_):
        raise AssertionError("a finished shard was made again")

    before = digests(whole)
    monkeypatch.setattr(preparing, "prepare_sound", never)
    prepare(many, whole, SETTINGS, workers=1)
    assert digests(whole) == before


def test_what_changed_is_made_again_and_what_is_gone_is_removed(many, tmp_path):
    settings = dataclasses.replace(SETTINGS, part_records=10, shard_bytes=1_000_000)
    train = [item for item in many if not isinstance(item, RecordError) and item.split == "train"]
    prepare(train[:35], tmp_path, settings, workers=1)
    before = digests(tmp_path)
    changed = [*train[:12], dataclasses.replace(train[12], captions=[Caption("another")]), *train[13:20]]
    manifest = prepare(changed, tmp_path, settings, workers=1)
    after = digests(tmp_path)
    assert {name for name in after if name.startswith("data/train-00000")} == {
        name for name in before if name.startswith("data/train-00000")
    }
    assert all(after[name] == before[name] for name in after if "/train-00000" in name)
    assert not [name for name in after if "/train-00002" in name or "/train-00003" in name]
    assert verify(tmp_path) == [] and manifest["records"] == 20
    assert [record.captions[0].text for record in read_records(tmp_path)][12] == "another"
    assert summary(manifest, tmp_path).startswith("20 clips, ") and "could not" not in summary(manifest, tmp_path)


def test_a_file_that_is_repaired_is_read_again_and_the_card_says_so(many, tmp_path):
    paths = [tmp_path / f"{number}.ogg" for number in range(2)]
    paths[0].write_bytes(many[0].audio["bytes"])
    paths[1].write_bytes(b"broken")
    records = [
        dataclasses.replace(record, audio={"bytes": None, "path": str(path)})
        for record, path in zip(many, paths, strict=False)
    ]
    assert prepare(records, tmp_path / "corpus", SETTINGS, workers=1)["errors"] == 1
    paths[1].write_bytes(many[1].audio["bytes"])
    manifest = prepare(records, tmp_path / "corpus", SETTINGS, workers=1)
    assert (manifest["records"], manifest["errors"]) == (2, 0)
    assert "\n2 clips, " in (tmp_path / "corpus" / "README.md").read_text()


def test_other_settings_in_the_same_folder_are_refused(whole, many):
    with pytest.raises(ValueError, match="begun with other settings.*\n.*shard_bytes: 60000 there, 13000 now"):
        prepare(many, whole, dataclasses.replace(SETTINGS, shard_bytes=13_000), workers=1)
    with pytest.raises(ValueError, match="engine is 'slurm'"):
        prepare(many, whole, SETTINGS, engine="slurm")
    for change in ({"format": "zip"}, {"part_records": 0}):
        with pytest.raises(ValueError, match="format is 'zip'|must be positive"):
            dataclasses.replace(SETTINGS, **change)


def test_a_cluster_makes_the_same_bytes(whole, many, tmp_path):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=1, include_dashboard=False, logging_level="error", log_to_driver=False)
    try:
        prepare(many, tmp_path / "corpus", SETTINGS, engine="ray")
    finally:
        ray.shutdown()
    assert digests(tmp_path / "corpus") == digests(whole)
