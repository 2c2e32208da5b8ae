"""The script that a newcomer runs last: what it prints is what the pipelines say, and a broken clip does not stop it."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
from datasets import Audio, Dataset

SCRIPT = Path(__file__).parents[2] / "examples" / "classify_and_caption.py"


@pytest.fixture
def listen():
    return runpy.run_path(SCRIPT)["main"]


@pytest.fixture
def model(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "run" / "model")


@pytest.fixture
def corpus(corpus_rows, tmp_path):
    rows = [*corpus_rows, {**corpus_rows[0], "id": "broken", "audio": {"bytes": b"no sound", "path": "broken.wav"}}]
    Dataset.from_list(rows).cast_column("audio", Audio(decode=False)).to_parquet(tmp_path / "clips.parquet")
    return tmp_path / "clips.parquet"


def test_every_clip_that_can_be_heard_is_classified_and_captioned(listen, model, corpus, corpus_rows, capsys):
    summary = listen([str(model), str(corpus), "--batch-size", "3"])
    printed = capsys.readouterr().out
    assert "left out clip broken" in printed and "zero-shot accuracy on 7 clips" in printed
    assert [answer["id"] for answer in summary["answers"]] == [row["id"] for row in corpus_rows]
    right = [answer["answer"] == answer["label"] for answer in summary["answers"]]
    assert summary["zero_shot_accuracy"] == pytest.approx(sum(right) / 7)
    assert json.loads((model.parent / "results.json").read_text()) == summary


def test_batches_change_no_answer(listen, model, corpus):
    one, three = (listen([str(model), str(corpus), "--batch-size", size])["answers"] for size in ("1", "3"))
    assert [a["answer"] for a in one] == [a["answer"] for a in three]
    assert [a["caption"] for a in one] == [a["caption"] for a in three]
