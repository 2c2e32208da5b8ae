"""Checkpoints: whole or not there, exact, and refused where they do not fit."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from hf_slap.checkpoint import (
    CheckpointError,
    average_weights,
    checkpoint_to_resume,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from hf_slap.optimization import parameter_groups

from processes import die_at  # isort: skip

SETTINGS = {"seed": 3, "model": {"width": 5}}


class Model(nn.Module):
    """Tied weights, a frozen part and dropout, as in pretraining."""

    def __init__(self, width=5):
        super().__init__()
        self.words = nn.Embedding(7, width)
        self.linear = nn.Linear(width, width)
        self.head = nn.Linear(width, 7, bias=False)
        self.head.weight = self.words.weight
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, tokens):
        return self.head(nn.functional.dropout(self.linear(self.words(tokens)).relu(), 0.3))


class Run:
    def __init__(self, seed=0, width=5):
        torch.manual_seed(seed)
        self.model = Model(width)
        self.teacher = nn.Linear(3, width)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 0.05), lr=0.01)

    def steps(self, count):
        losses = []
        for _ in range(count):
            tokens = torch.randint(0, 7, (11,))
            loss = nn.functional.cross_entropy(self.model(tokens), tokens)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def save(self, folder, step, **keywords):
        return save_checkpoint(
            folder, step, self.model, self.optimizer, self.teacher, {"seen": step}, SETTINGS, **keywords
        )

    def load(self, path, settings=SETTINGS):
        return load_checkpoint(path, self.model, self.optimizer, self.teacher, settings)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path):
    run = Run()
    run.steps(3)
    path = run.save(tmp_path, 3)
    expected = run.steps(4)

    resumed = Run(seed=99)
    state = resumed.load(path)
    assert state == {"seen": 3, "step": 3}
    assert resumed.steps(4) == expected
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert resumed.model.head.weight is resumed.model.words.weight
    assert torch.equal(run.teacher.weight, resumed.teacher.weight)


def test_nothing_is_pickled(tmp_path):
    names = {file.name for file in Run().save(tmp_path, 0).iterdir()}
    assert names == {
        "model.safetensors", "optimizer.safetensors", "teacher.safetensors", "random.safetensors", "state.json"
    }  # fmt: skip


def test_a_learning_rate_belongs_to_the_schedule_and_not_to_the_checkpoint(tmp_path):
    run = Run()
    run.steps(1)
    path = run.save(tmp_path, 1)
    other = Run()
    other.optimizer.param_groups[0]["lr"] = 0.5
    other.load(path)
    assert other.optimizer.param_groups[0]["lr"] == 0.5


def test_only_the_last_checkpoints_are_kept(tmp_path):
    run = Run()
    for step in (1, 2, 10, 11):
        run.save(tmp_path, step, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-00000011"]
    assert last_checkpoint(tmp_path).name == "step-00000011"


def test_the_mean_of_the_last_checkpoints_is_that_of_each_of_their_weights(tmp_path):
    run, weights = Run(), []
    for step in (1, 2, 3):
        run.steps(3)
        run.save(tmp_path, step, keep=3)
        weights.append(run.model.linear.weight.detach().clone())
    mean = average_weights(tmp_path, 2)
    assert torch.allclose(mean["linear.weight"], (weights[1] + weights[2]) / 2, atol=1e-7)
    assert not torch.allclose(mean["linear.weight"], weights[2], atol=1e-4)
    run.model.load_state_dict(mean)
    assert torch.equal(run.model.head.weight, run.model.words.weight)
    with pytest.raises(CheckpointError, match="4 checkpoints are to be averaged, .* has 3; lower average_checkpoints"):
        average_weights(tmp_path, 4)


def test_half_written_checkpoints_are_passed_over(tmp_path):
    run = Run()
    good = run.save(tmp_path, 1)
    torn = run.save(tmp_path, 2)
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / ".writing-step-00000004").mkdir()
    (tmp_path / "step-00000005").mkdir()
    assert last_checkpoint(tmp_path) == good
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        run.load(torn)
    assert last_checkpoint(tmp_path / "nowhere") is None
    later = run.save(tmp_path, 3, keep=1)
    assert last_checkpoint(tmp_path) == later and list(tmp_path.iterdir()) == [later], "they do not count as kept"


def test_saving_a_step_again_replaces_it(tmp_path):
    run = Run()
    run.save(tmp_path, 1)
    run.steps(1)
    path = run.save(tmp_path, 1)
    fresh = Run(seed=5)
    fresh.load(path)
    assert torch.equal(fresh.model.linear.weight, run.model.linear.weight)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = Run().save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="belongs to another model; tensors .* of another shape .*linear.weight"):
        Run(width=7).load(path)
    other = Run()
    other.model.extra = nn.Linear(2, 2)
    other.optimizer = torch.optim.AdamW(parameter_groups(other.model, 0.05))
    with pytest.raises(CheckpointError, match=r"2 missing \(extra.bias, extra.weight\)"):
        other.load(path)


def test_a_checkpoint_with_other_settings_is_refused_and_says_which(tmp_path):
    path = Run().save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="model.width: 5 there, 6 now"):
        Run().load(path, {"seed": 3, "model": {"width": 6}})


def test_a_part_that_the_checkpoint_lacks_is_refused(tmp_path):
    run = Run()
    path = save_checkpoint(tmp_path, 1, run.model, run.optimizer)
    with pytest.raises(CheckpointError, match="teacher.safetensors is missing"):
        load_checkpoint(path, run.model, run.optimizer, run.teacher)


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(tmp_path):
    # Files larger than 100 kB cannot be written in the child process, as on a disk that is full.
    script = textwrap.dedent("""
        import resource, sys, torch
        from hf_slap.checkpoint import save_checkpoint
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        for step, width in ((1, 10), (2, 300)):
            model = torch.nn.Linear(width, width)
            save_checkpoint(sys.argv[1], step, model, torch.optim.AdamW(model.parameters()))
    """)
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert child.returncode == 1
    message = child.stderr.strip().splitlines()[-1]
    assert "could not write checkpoint" in message and "step-00000002" in message
    assert "The last good checkpoint is" in message and "step-00000001" in message and "--resume" in message
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"], "what was half written is gone"
    state = json.loads((last_checkpoint(tmp_path) / "state.json").read_text())
    assert state["step"] == 1


def test_killed_at_any_moment_of_writing_there_is_a_whole_checkpoint(tmp_path):
    run = Run()
    run.steps(1)
    whole = tmp_path / "whole"
    run.save(whole, 1)
    run.save(whole, 2)
    run.steps(1)
    states = []
    for moment in itertools.count(1):
        folder = tmp_path / str(moment)
        shutil.copytree(whole, folder)
        child = os.fork()
        if not child:
            die_at(folder, moment)
            run.save(folder, 3, keep=1)  # also deletes steps 1 and 2
            os._exit(0)
        _, status = os.waitpid(child, 0)
        states.append(run_of(last_checkpoint(folder)))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        run.save(folder, 3, keep=1)
        assert [path.name for path in folder.iterdir()] == ["step-00000003"], f"moment {moment} left something for good"
    assert len(states) > 20 and states == sorted(states) and states[0] == 2 and states[-1] == 3


def run_of(path):
    """The step of a checkpoint that loads without complaint."""
    return Run(seed=7).load(path)["step"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_whatever_the_disk_says_the_last_checkpoint_stays_and_the_message_says_why(tmp_path, monkeypatch, number):
    run = Run()
    good = run.save(tmp_path, 1)
    before = {file.name: file.read_bytes() for file in good.iterdir()}
    for place in ("hf_slap.checkpoint.save_file", "hf_slap.checkpoint.os.replace", "hf_slap.checkpoint.os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *arguments, **keywords: raise_(OSError(number, os.strerror(number))))
            with pytest.raises(
                CheckpointError, match=f"{os.strerror(number)}.*The last good checkpoint is .*step-00000001"
            ):
                run.save(tmp_path, 2, keep=1)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert {file.name: file.read_bytes() for file in good.iterdir()} == before


def raise_(error):
    raise error


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="could not write checkpoint .* There is no earlier checkpoint"):
        Run().save(tmp_path / "checkpoints", 1)


def test_machines_that_do_not_share_the_run_folder_are_told_so(tmp_path, monkeypatch):
    saved = Run().save(tmp_path, 3)
    assert checkpoint_to_resume(tmp_path) == saved and checkpoint_to_resume(tmp_path / "nowhere") is None
    monkeypatch.setattr("hf_slap.checkpoint.gather_objects", lambda name: [name, None])
    with pytest.raises(CheckpointError, match=r"\['step-00000003', None\].*disk that all machines share"):
        checkpoint_to_resume(tmp_path)
