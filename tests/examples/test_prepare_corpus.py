"""The script from sources to a described corpus, and the one that measures it."""

import argparse
import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from datasets import Dataset

from hf_slap.data import load_corpus


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepare_corpus() -> ModuleType:
    return script("prepare_corpus")


@pytest.fixture(scope="module")
def benchmark_loader() -> ModuleType:
    return script("benchmark_loader")


@pytest.fixture
def sources(corpus_rows, tmp_path) -> tuple[Path, Path]:
    """Two files of the recipe `parquet`: seven clips, and two of them once more under other names."""
    rows = [
        {
            "id": row["id"], "audio": row["audio"], "captions": row["captions"], "labels": [row["label"]],
            "source_id": f"freesound:{number}", "license": "CC-BY-SA-3.0",
        }
        for number, row in enumerate(corpus_rows)
    ]  # fmt: skip
    copies = [
        {**rows[number], "id": f"copy-{number}", "source_id": f"elsewhere:{number}", "captions": [f"Copy {number}."]}
        for number in (2, 4)
    ]
    paths = tmp_path / "ours.parquet", tmp_path / "theirs.parquet"
    for path, some in zip(paths, (rows, copies), strict=True):
        Dataset.from_list(some).to_parquet(path)
    return paths


def test_sources_become_one_corpus_without_copies_and_evaluation_clips(
    prepare_corpus, sources, corpus_rows, tmp_path, capsys
):
    ours, theirs = sources
    (tmp_path / "judged.txt").write_text("freesound:5\nfreesound:999\n")
    arguments = [str(tmp_path / "out"), "--source", f"parquet:ours={ours}", "--source", f"parquet:theirs={theirs}"]
    arguments += ["--evaluation", f"judged={tmp_path / 'judged.txt'}", "--workers", "1", "--title", "Seven sounds"]
    folder = prepare_corpus.main(arguments)
    corpus = load_corpus(folder, cache_dir=tmp_path / "cache")
    assert corpus["id"][:] == [f"ours/{row['id']}" for number, row in enumerate(corpus_rows) if number != 5]
    assert [any("Copy" in text for text in texts) for texts in corpus["captions"]] == [n in (2, 4) for n in range(6)]
    assert corpus[0]["audio"]["bytes"][:4] == b"fLaC"
    card = (folder / "README.md").read_text()
    assert "# Seven sounds" in card and "](datasheet/" in card
    assert json.loads((tmp_path / "out" / "reports" / "leakage.json").read_text())
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in (folder / "data").iterdir()}
    assert prepare_corpus.main(arguments) == folder
    assert before == {path: hashlib.sha256(path.read_bytes()).digest() for path in (folder / "data").iterdir()}
    assert "1 clips are in evaluation sets" in capsys.readouterr().out
    written = {path: path.read_bytes() for path in (folder / "README.md", folder / "datasheet" / "datasheet.json")}
    for path in written:
        path.unlink()
    assert prepare_corpus.main(["--describe", str(folder), "--title", "Seven sounds"]) == folder
    assert written == {path: path.read_bytes() for path in written}


def test_recipes_are_listed_and_a_wrong_source_is_refused(prepare_corpus, capsys):
    assert prepare_corpus.main(["--list"]) is None and "clotho" in capsys.readouterr().out
    prepare_corpus.main(["--list", "clotho"])
    assert "licence" in capsys.readouterr().out
    for arguments, message in (
        ([], "at least one --source"),
        (["out", "--source", "cloto=x"], "no recipe 'cloto'"),
        (["out", "--source", "clotho"], "must be name=path"),
        (["out", "--source", "parquet=x", "--evaluation", "esc50=nowhere"], "no 'nowhere'\nESC-50"),
        (["out", "--source", "parquet=x", "--source", "parquet=y"], "a name of its own"),
    ):
        with pytest.raises(SystemExit):
            prepare_corpus.main(arguments)
        assert message in capsys.readouterr().err


def test_the_benchmark_measures_every_way_and_the_plan_is_its_arithmetic(benchmark_loader, sources, capsys):
    speeds = benchmark_loader.main([str(sources[0]), "--recipe", "parquet"])["speeds"]
    assert list(speeds) == list(benchmark_loader.CORPORA)
    assert all(value > 0 for speed in speeds.values() for value in speed.values())
    assert speeds["parquet, Opus 32 kbit/s"]["MB per hour"] < speeds["parquet, FLAC"]["MB per hour"]
    assert "memory: not measured" in capsys.readouterr().out
    speed = {"prepare": 100.0, "train (random order, decode, log-mel, batch)": 500.0, "MB per hour": 50.0}
    wish = argparse.Namespace(pairs=7.2e6, seconds=10.0, epochs=3.0, gpu_speed=2000.0)
    lines = benchmark_loader.plan({"x": speed}, wish).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines if line.startswith("|")}
    assert cells["hours of sound"] == "20,000"
    assert cells["storage, TB"] == "1.0" and cells["shards of 2 GB"] == "500"
    assert cells["core-hours to prepare (from Opus)"] == "200" and cells["days to prepare on 64 cores"] == "0.1"
    assert cells["cores that feed one GPU"] == "4" and cells["MB/s that one GPU reads"] == "28"
    assert lines[-1].endswith("1.2 days of training.")  # 3 x 20,000 h at 2,000 times real time
