"""Runs that are killed again and again (kill -9) end as those that nobody touched, to the last bit.

SLAP_KILLS=20 python -m pytest tests/examples/test_killed.py      more kills than the few of every day
"""

import os
import random
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hf_slap.checkpoint import last_checkpoint
from hf_slap.training_log import SPEED, read_metrics

from processes import die_at, start  # isort: skip
from test_pretrain import train  # isort: skip

KILLS = int(os.environ.get("SLAP_KILLS", 4))
STEPS = 2 * KILLS + 2
RUN = [
    f"total_steps={STEPS}", "checkpoint_every=2", "keep_checkpoints=2", "validate_every=3", "tracker=tensorboard",
    "model.decoder_config.dropout=0.1", "centering=softmax", "clips.mix_probability=0.5", "clips.gain_db=6",
]  # fmt: skip


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_is_not(tmp_path):
    untouched, killed = tmp_path / "untouched", tmp_path / "killed"
    assert wait(start(run, untouched, 0)) == 0

    rng, half_written, steps = random.Random(0), 0, []
    for kill in range(KILLS):
        if kill % 2:  # whatever it does at that moment
            process, before = start(run, killed, 0), len(read_metrics(killed))
            while len(read_metrics(killed)) <= before and process.is_alive():
                time.sleep(0.002)
            time.sleep(rng.uniform(0.0, 0.2))
            process.kill()
        else:  # while it writes, renames or deletes a checkpoint
            process = start(run, killed, rng.randint(1, 35))
        assert wait(process) == -9, "it was killed"
        half_written += any((killed / "checkpoints").glob(".*"))
        checkpoint = last_checkpoint(killed / "checkpoints")
        steps.append(checkpoint and int(checkpoint.name.removeprefix("step-")))
    print(f"killed {KILLS} times, {half_written} while a checkpoint was written or deleted; last whole ones: {steps}")
    assert half_written, "no kill hit a checkpoint"
    assert steps[-1] < STEPS, "the last kill left something to do"
    assert wait(start(run, killed, 0)) == 0

    rows = read_metrics(untouched)
    assert without_speed(read_metrics(killed)) == without_speed(rows)
    checkpoints = sorted(path.name for path in (untouched / "checkpoints").iterdir())
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == checkpoints, "nothing is left over"
    for file in (untouched / "checkpoints" / checkpoints[-1]).iterdir():
        ours = killed / "checkpoints" / checkpoints[-1] / file.name
        assert ours.read_bytes() == file.read_bytes(), f"{file.name}: weights, moments, teacher, random state, counters"
    weights = "model/model.safetensors"
    assert (killed / weights).read_bytes() == (untouched / weights).read_bytes()

    events = EventAccumulator(str(killed / "slap")).Reload().Scalars("loss/total")
    expected = [(row["step"], pytest.approx(row["total"])) for row in rows if row["kind"] == "train"]
    assert [(event.step, event.value) for event in events] == expected, "the tracker has every step once, without a gap"


# --------------------------------------------------------------------------------------------------------- helpers
def run(folder, die_number):
    """In a process of its own: begins the run, or goes on with it."""
    if die_number:
        die_at(folder / "checkpoints", die_number)
    train(folder, *RUN, resume=True)


def wait(process):
    process.join()
    return process.exitcode


def without_speed(rows):
    return [{name: value for name, value in row.items() if name not in SPEED} for row in rows]
