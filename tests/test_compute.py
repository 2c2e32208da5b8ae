"""Operations are those that torch counts in the model itself; rate and memory are those of a machine that computes."""

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hf_slap import SlapAudioConfig, SlapAudioModel, SlapForPreTraining
from hf_slap.compute import audio_operations, matmul_probe, matmul_rate, memory_gb, step_operations
from hf_slap.objectives import model_inputs

CLIPS, FRAMES, WORDS = 4, 96, 11
ALL = {"contrastive": 1.0, "masked": 1.0, "caption": 1.0}


@pytest.fixture(scope="module")
def batch():
    """Clips and captions of equal lengths, so that nothing is padded."""
    words = torch.randint(5, 200, (CLIPS, WORDS), generator=torch.Generator().manual_seed(0))
    return {
        "input_features": torch.zeros(CLIPS * FRAMES, 64),
        "clip_frames": [FRAMES] * CLIPS,
        "clip_tokens": [FRAMES // 4] * CLIPS,
        "patch_mask": torch.arange(CLIPS * FRAMES // 4) % 3 == 0,
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": words,
    }


@pytest.fixture(scope="module")
def frozen(tiny_config):
    """A model without windows, whose masked products torch counts whole, of which nothing learns: one pass each."""
    config = copy.deepcopy(tiny_config)
    config.audio_config.layer_types = ["full_attention"] * config.audio_config.num_hidden_layers
    return SlapForPreTraining(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def by_torch(frozen, batch):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        frozen(**model_inputs(batch, ALL))
    counts = {
        name.removeprefix("SlapForPreTraining."): sum(v.values()) for name, v in counter.get_flop_counts().items()
    }
    pooling = counts["slap.audio_model.pooler"]
    return {**counts, "encoder": counts["slap.audio_model"] / 2 - pooling / 2}  # clean and masked pass


def operations(model, batch, part):
    return step_operations(model, {**dict.fromkeys(ALL, 0.0), part: 1.0})(batch)


def test_operations_are_those_of_the_matrices_and_the_attention():
    config = SlapAudioConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=3)
    tokens = 8  # one clip of two columns
    layer = 2 * tokens * (4 * 8 * 8 + 3 * 8 * 12) + 4 * tokens * tokens * 8  # the window is wider than the clip
    expected = 2 * tokens * 8 * 256 + 3 * layer + 2 * 2 * tokens * 8 * 8
    assert audio_operations(config, [32]) == expected


@pytest.mark.parametrize("patch", [{}, {"patch_frames": 6, "patch_bins": 64}])
def test_operations_of_convolutions_in_front_are_what_torch_counts(patch):
    config = SlapAudioConfig(
        hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=1, stem_channels=[3, 5], **patch
    )
    model = SlapAudioModel(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(96, 64), clip_frames=[96])
    counts = {name: sum(value.values()) for name, value in counter.get_flop_counts().items()}
    pooling = counts["SlapAudioModel.pooler"]
    tokens = 96 // config.patch_frames * config.patch_rows
    keys = 2 * 2 * tokens * 8 * 8  # what is counted of the pooling head
    assert audio_operations(config, [96]) - keys == counts["SlapAudioModel"] - pooling


def test_operations_of_slap_base_are_the_known_figure():
    """57 to 59 GFLOP for ten seconds: 113.5 M weights times two times 248 patches, and attention."""
    assert audio_operations(SlapAudioConfig(), [992]) / 1e9 == pytest.approx(58.4, rel=0.02)


def test_each_part_of_a_step_is_what_torch_counts(frozen, batch, by_torch):
    encoder = audio_operations(frozen.config.audio_config, batch["clip_frames"])
    width, tokens = frozen.config.audio_config.hidden_size, sum(batch["clip_tokens"])
    pooling = 4 * tokens * width**2  # its keys and values
    assert encoder - pooling == pytest.approx(by_torch["encoder"], rel=0.01)
    assert operations(frozen, batch, "contrastive") - encoder == pytest.approx(by_torch["slap.text_model"], rel=0.01)
    written = by_torch["decoder"] + by_torch["lm_head"]
    assert operations(frozen, batch, "caption") - encoder == pytest.approx(written, rel=0.01)
    scores = 2 * int(batch["patch_mask"].sum()) * frozen.prototype_head.prototypes.numel()  # are made in the loss
    head = by_torch["prototype_head"] + scores
    assert operations(frozen, batch, "masked") == pytest.approx(2 * encoder + 2 * head, rel=0.001), (
        "student and teacher"
    )


def test_what_learns_costs_a_backward_pass(frozen, batch):
    model = SlapForPreTraining(frozen.config)
    assert operations(model, batch, "caption") == 3 * operations(frozen, batch, "caption")
    once = operations(frozen, batch, "masked") / 2
    assert operations(model, batch, "masked") == 3 * once + once, "the teacher has no backward pass"


def test_a_shared_masked_pass_saves_the_clean_one(frozen, batch):
    whole, shared = (step_operations(frozen, ALL, shared)(batch) for shared in (False, True))
    assert whole - shared == audio_operations(frozen.config.audio_config, batch["clip_frames"])


def test_the_rate_is_measured_and_draws_no_random_number():
    before = torch.get_rng_state()
    multiply, count = matmul_probe("cpu", torch.float32, repeats=2)
    multiply()
    assert count == 2 * 2 * 1024 * 768 * 3072
    assert 1e8 < matmul_rate("cpu", torch.float32, rounds=1) < 1e14
    assert torch.equal(torch.get_rng_state(), before)
    assert 0.05 < memory_gb("cpu") < 1000
