"""A learning rate that falls on a plateau, and the best weights: what they remember, and what they do with it."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hf_slap.held_out import BestWeights, HeldOut, Plateau
from hf_slap.optimization import scheduled
from hf_slap.training_config import HELD_OUT, TrainConfig

LOSS, SCORE = "contrastive loss", "zero-shot score"


def config(**fields):
    return TrainConfig(train_data="x", validation_data="y", total_steps=100, warmup_steps=4, **fields)


@pytest.mark.parametrize(("measure", "mode", "sign"), [(LOSS, "min", 1), (SCORE, "max", -1)])
def test_the_rate_falls_when_torchs_own_rule_lets_it_fall(measure, mode, sign):
    """A curve that falls, rests, moves by less than counts, is NaN once, and rests again; upside down for a score."""
    rng = np.random.default_rng(0)
    series = [3.0, 2.0, 2.5, float("nan"), *(2.0 - 1e-4 * k for k in range(5)), *(1.9 + rng.random(60) * 0.2), 0.5]
    series += [0.5] * 9
    parameter = nn.Parameter(torch.zeros(()))
    theirs = ReduceLROnPlateau(torch.optim.SGD([parameter], lr=1.0), mode, factor=0.1, patience=3, eps=0)
    ours, fell = Plateau(measure, patience=3), []
    for value in series:
        value = value if sign == 1 else 5 - value
        theirs.step(value)
        fell.append(ours.note({measure: value}))
        assert 0.1**ours.lowered == pytest.approx(theirs.get_last_lr()[0])
    assert sum(fell) > 5, "the curve must try it"


def test_with_a_patience_of_two_the_third_validation_without_progress_lowers_the_rate():
    plateau = Plateau(LOSS, patience=2)
    assert [plateau.note({LOSS: value}) for value in (1.0, 0.5, 0.6, 0.5, 0.7, 0.6, 0.4)] == [False] * 4 + [True] + [
        False
    ] * 2
    assert plateau.counters == {"plateau_best": 0.4, "plateau_waited": 0, "plateau_lowered": 1}


def test_a_plateau_that_is_resumed_goes_on_as_one_that_was_not():
    values = [1.0, 1.1, 1.2, 1.3, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0]
    whole = Plateau(LOSS, patience=2)
    for value in values:
        whole.note({LOSS: value})
    for stop in range(len(values)):
        counters = None
        for part in (values[:stop], values[stop:]):
            plateau = Plateau(LOSS, 2, counters)
            for value in part:
                plateau.note({LOSS: value})
            counters = plateau.counters
        assert counters == whole.counters == {"plateau_best": 0.9, "plateau_waited": 2, "plateau_lowered": 2}


def test_the_rate_warms_up_and_is_a_tenth_after_each_plateau_but_never_below_the_minimum():
    given = config(schedule="plateau", peak_learning_rate=1e-3, min_learning_rate=5e-6)
    assert [scheduled(given, step).learning_rate for step in (0, 3, 50, 99)] == pytest.approx(
        [2.5e-4, 1e-3, 1e-3, 1e-3]
    )
    rates = [scheduled(given, 50, lowered).learning_rate for lowered in (1, 2, 3, 4)]
    assert rates == pytest.approx([1e-4, 1e-5, 5e-6, 5e-6])
    assert scheduled(config(), 50, 0) == scheduled(config(), 50), "a cosine knows of no plateau"


def test_the_best_weights_are_kept_and_those_before_them_only_until_a_checkpoint_knows(tmp_path):
    best, model = BestWeights(tmp_path, SCORE), nn.Linear(2, 3)
    for step, value in ((10, 0.3), (20, float("nan")), (30, 0.5), (40, 0.5), (50, 0.1)):
        nn.init.constant_(model.weight, step)
        if best.note(step, {SCORE: value}):
            best.keep(model)
    assert (best.step, best.value) == (30, 0.5)
    assert torch.equal(best.weights()["weight"], torch.full((3, 2), 30.0))
    assert sorted(path.name for path in (tmp_path / "selected").iterdir()) == [
        "step-00000010.safetensors", "step-00000030.safetensors"
    ]  # fmt: skip
    best.forget_others()
    assert [path.name for path in (tmp_path / "selected").iterdir()] == ["step-00000030.safetensors"]
    again = BestWeights(tmp_path, SCORE, best.counters)
    assert not again.note(60, {SCORE: 0.4}) and again.note(70, {SCORE: 0.6}) and again.step == 70


def test_a_loss_is_better_when_it_is_lower(tmp_path):
    best = BestWeights(tmp_path, LOSS)
    assert [best.note(step, {LOSS: value}) for step, value in enumerate((2.0, 2.5, 1.0, 1.0))] == [
        True,
        False,
        True,
        False,
    ]


def test_weights_of_a_run_without_a_number_are_refused(tmp_path):
    best = BestWeights(tmp_path, SCORE)
    assert not best.note(1, {SCORE: float("nan")})
    with pytest.raises(ValueError, match="no validation gave a finite 'zero-shot score'"):
        best.weights()


def test_a_configuration_that_asks_for_neither_remembers_nothing(tmp_path):
    nothing = HeldOut(config())
    assert not nothing.note(1, {LOSS: 1.0}) and nothing.counters == {} and nothing.lowered == 0
    both = HeldOut(config(schedule="plateau", plateau_patience=0, select_by=LOSS, run_folder=str(tmp_path)))
    assert [both.note(step, {LOSS: value}) for step, value in ((1, 2.0), (2, 3.0))] == [True, False]
    assert both.lowered == 1 and both.counters["selected_step"] == 1
    with pytest.raises(ValueError, match="the validation gives no 'contrastive loss'; it gives"):
        both.note(3, {"zero-shot accuracy": 0.5})


def test_what_a_run_decides_by_must_not_change_when_it_goes_on():
    for name, value in (("validation_data", "z"), ("validate_every", 3), ("zero_shot_tasks", ["clap-esc50"])):
        for same, fields in ((True, {}), (False, {"schedule": "plateau"}), (False, {"select_by": LOSS})):
            first = config(**fields)
            other = TrainConfig(**{**vars(first), name: value})
            assert (other.settings() == first.settings()) == same, name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schedule": "steps"}, r"schedule is 'steps'; accepted are \['cosine', 'plateau'\]"),
        ({"select_by": "accuracy"}, "select_by is 'accuracy'; accepted are .*'zero-shot score'"),
        ({"select_by": SCORE}, "select_by='zero-shot score' needs zero_shot_tasks"),
        ({"schedule": "plateau", "contrastive_weight": 0}, "plateau_on='contrastive loss' needs validation_data"),
        ({"select_by": LOSS, "average_checkpoints": 2}, "set one of them only"),
        ({"plateau_patience": -1}, "plateau_patience=-1"),
        ({"plateau_factor": 10}, "plateau_factor is 10.0; it must lie between 0 and 1"),
    ],
)
def test_decisions_that_cannot_be_meant_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)
    assert len(set(HELD_OUT)) == len(HELD_OUT)
