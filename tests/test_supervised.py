"""Several tasks at once: their shares, their batches, their losses and their heads."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_slap import SlapForAudioClassification, fitting
from hf_slap.classification import Classes, LabelledClip
from hf_slap.data import SkippedClip
from hf_slap.fitting import LoopConfig
from hf_slap.supervised import (
    Task,
    TaskClips,
    TaskSettings,
    class_names,
    clips_per_task,
    one_task,
    pack_tasks,
    task_batches,
)


def a_task(name, clips, classes, first, multi_label=False):
    names = [f"{name}{number}" for number in range(classes)]
    corpus = Dataset.from_dict({"duration": [1.0] * clips})
    targets = np.eye(classes, dtype=np.float32)[np.arange(clips) % classes]
    return Task(name, TaskSettings(), corpus, corpus, Classes(names, targets, targets, multi_label), slice(first, first + classes))  # fmt: skip


TWO = [a_task("a", 16, 2, 0), a_task("b", 4, 3, 2, multi_label=True)]


def test_shares_of_a_step_are_those_of_the_corpora_to_a_power():
    assert clips_per_task(TWO, 20, 1.0) == [16, 4]
    assert clips_per_task(TWO, 20, 0.0) == [10, 10]
    assert clips_per_task(TWO, 12, 0.5) == [8, 4]  # 4 : 2
    assert clips_per_task(TWO, 4, 1.0) == [3, 2], "never fewer than two"


def test_every_step_has_every_task_and_going_on_is_the_rest(monkeypatch):
    def batches(first, last):
        return list(task_batches(LoopConfig(batch_clips=6), TWO, 0.5, 0.3, 30.0, first, last))

    steps = batches(0, 5)
    assert [[task for task, _ in step] for step in steps] == [[0, 0, 0, 0, 1, 1]] * 5
    assert steps[2:] == batches(2, 5)
    heard = [pair.clip.index for step in steps[:4] for task, pair in step if task == 0]
    assert sorted(heard) == list(range(16)), "each clip once, before any comes again"
    monkeypatch.setattr(fitting, "world_size", lambda: 3)
    parts = []
    for number in range(3):
        monkeypatch.setattr(fitting, "rank", lambda number=number: number)
        parts.append(batches(0, 5))
    assert any({task for task, _ in step} == {0} for part in parts for step in part), "fewer clips of a task than ranks"
    for step, whole in enumerate(steps):
        assert sorted(sum((part[step] for part in parts), [])) == sorted(whole)
    partners = {(task, pair.over.index) for task, pair in steps[0]}
    assert partners == {(task, pair.clip.index) for task, pair in steps[0]}, "of the same task"


def test_the_loss_of_a_task_sees_its_own_columns_only():
    logits = torch.tensor([[0.0, 1.0, 50.0, 60.0, 70.0]])
    assert TWO[0].loss(logits, torch.tensor([[1.0, 0, 0, 0, 0]])).item() == pytest.approx(math.log(1 + math.e))
    logits = torch.tensor([[90.0, 80.0, 0.0, 0.0, 1.0]])
    expected = (math.log(2) * 2 + math.log(1 + math.exp(-1))) / 3
    assert TWO[1].loss(logits, torch.tensor([[0, 0, 1.0, 0, 1.0]])).item() == pytest.approx(expected)
    assert TWO[0].loss(logits[:0], logits[:0]).item() == 0.0


def test_targets_stand_in_the_columns_of_their_task_and_broken_clips_are_left_out():
    class Clips:
        def __init__(self, width):
            self.width = width

        def __getitems__(self, pairs):
            known = [LabelledClip(p, np.ones((2, 3), np.float32), np.ones(self.width), 1.0) for p in pairs if p != "x"]
            return known + [SkippedClip("x", "noise")] * pairs.count("x")

    clips = TaskClips([Clips(2), Clips(3)], TWO)
    batch = pack_tasks(clips.__getitems__([(0, "p"), (0, "x"), (1, "q"), (1, "r")]))
    assert batch["targets"].tolist() == [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert batch["task_clips"] == {0: 1, 1: 2} and batch["ids"] == ["p", "q", "r"]
    assert batch["skipped"] == [("x", "noise")]
    assert pack_tasks(clips.__getitems__([(0, "x"), (1, "q")]))["task_clips"] == {0: 0, 1: 1}


def test_one_task_has_the_rows_of_its_head(tiny_config, tmp_path):
    config = copy.deepcopy(tiny_config)
    config.id2label = class_names(TWO)
    whole = SlapForAudioClassification(config).eval()
    whole.save_pretrained(tmp_path / "whole")
    one_task(str(tmp_path / "whole"), "b", multi_label=True).save_pretrained(tmp_path / "b")
    alone = SlapForAudioClassification.from_pretrained(tmp_path / "b")
    assert alone.config.id2label == {0: "b0", 1: "b1", 2: "b2"}
    assert alone.config.problem_type == "multi_label_classification"
    features = torch.randn(1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(alone(features).logits, whole(features).logits[:, 2:], rtol=1e-5, atol=1e-9)
    with pytest.raises(ValueError, match=r"has no task 'c'; it has \['a', 'b'\]"):
        one_task(str(tmp_path / "whole"), "c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"column": "label"}, r"unknown keys \['tasks.x.column'\]; known keys are .*tasks.x.label_column"),
        ({"weight": 0}, "tasks.x.weight is 0.0; it must be positive"),
        ({"clips": {"gain": 3}}, r"unknown keys \['clips.gain'\]"),
        ({"validation_data": "y"}, "tasks.x.train_data is not set, so its splits and validation_data must not be"),
        ("label", "tasks.x is 'label'; expected keywords"),
    ],
)
def test_mistakes_in_a_task_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        TaskSettings.of("x", given)
