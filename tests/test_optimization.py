"""Parameter groups and schedules."""

import pytest
import torch
from torch import nn

from hf_slap.optimization import (
    cosine,
    learning_rate,
    linear,
    parameter_groups,
    scheduled,
    set_learning_rate,
)
from hf_slap.training_config import TrainConfig


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(7, 3)
        self.linear = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.prototypes = nn.Parameter(torch.zeros(2, 3))
        self.mask_token = nn.Parameter(torch.zeros(1, 3))
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.lm_head = nn.Linear(3, 7, bias=False)
        self.lm_head.weight = self.words.weight
        self.frozen = nn.Linear(3, 3)
        self.frozen.requires_grad_(False)


def test_weight_decay_pulls_on_the_matrices_of_layers_and_on_nothing_else():
    model = Model()
    decay, free = parameter_groups(model, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in decay["params"]] == ["linear.weight"] and decay["weight_decay"] == 0.05
    assert {names[id(p)] for p in free["params"]} == {
        "words.weight", "linear.bias", "norm.weight", "norm.bias", "prototypes", "mask_token", "logit_scale"
    }  # fmt: skip
    assert free["weight_decay"] == 0.0


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="unfreeze a part"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.05)


def test_the_learning_rate_warms_up_to_the_peak_and_ends_at_the_minimum():
    rates = [learning_rate(s, peak=1e-4, warmup_steps=4, total_steps=11, minimum=1e-6) for s in range(11)]
    assert rates[:4] == pytest.approx([0.25e-4, 0.5e-4, 0.75e-4, 1e-4])
    assert rates[10] == pytest.approx(1e-6)
    assert all(before > after for before, after in zip(rates[3:], rates[4:], strict=False))
    middle = learning_rate(7, peak=2.0, warmup_steps=0, total_steps=16, minimum=0.0)  # half of 16 steps are done
    assert middle == pytest.approx(1.0)


def test_the_rate_reaches_every_group():
    optimizer = torch.optim.AdamW(parameter_groups(Model(), 0.05), lr=1.0)
    set_learning_rate(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_the_teacher_goes_from_0994_to_1_along_a_cosine():
    config = TrainConfig(total_steps=100, warmup_steps=10)
    values = [scheduled(config, step).teacher_momentum for step in (0, 50, 100)]
    assert values == pytest.approx([0.994, 0.997, 1.0])


def test_the_teacher_temperature_rises_over_the_first_30_percent():
    config = TrainConfig(total_steps=100, warmup_steps=10)
    values = [scheduled(config, step).teacher_temperature for step in (0, 15, 30, 99)]
    assert values == pytest.approx([0.04, 0.055, 0.07, 0.07])


def test_schedules_without_length_are_at_their_end():
    assert cosine(0, 0, 1.0, 2.0) == 2.0 and linear(0, 0, 1.0, 2.0) == 2.0
