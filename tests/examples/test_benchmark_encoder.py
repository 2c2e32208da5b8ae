"""What the benchmark counts and compares; how long anything takes is not tested."""

import runpy
from pathlib import Path

import pytest
import torch

from hf_slap import SlapAudioConfig, SlapAudioModel

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_encoder.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(SCRIPT)


def test_operations_are_those_of_the_matrices_and_the_attention(script):
    config = SlapAudioConfig(hidden_size=8, num_attention_heads=2, intermediate_size=12, num_hidden_layers=3)
    tokens = 8  # one clip of two columns
    layer = 2 * tokens * (4 * 8 * 8 + 3 * 8 * 12) + 4 * tokens * tokens * 8  # the window is wider than the clip
    expected = 2 * tokens * 8 * 256 + 3 * layer + 2 * 2 * tokens * 8 * 8
    assert script["operations"](config, [32]) == expected


def test_operations_of_slap_base_are_the_known_figure(script):
    """57 to 59 GFLOP for ten seconds: 113.5 M weights times two times 248 patches, and attention."""
    assert script["operations"](SlapAudioConfig(), [992]) / 1e9 == pytest.approx(58.4, rel=0.02)


def test_the_workload_is_real_and_the_same_every_time(script):
    seconds = script["mixed_durations"]()
    assert seconds == script["mixed_durations"]() and len(seconds) == 12
    assert 1 <= min(seconds) and max(seconds) <= 30 and max(seconds) > 3 * min(seconds)
    x, frames = script["packed_features"](seconds)
    assert len(x) == sum(frames) and all(n % 16 == 0 for n in frames)


def test_results_are_compared_before_anything_is_timed(script):
    model = SlapAudioModel(SlapAudioConfig(hidden_size=24, num_attention_heads=3, intermediate_size=20)).eval()
    script["check_equality"](model, [1.0, 2.5])
    model.config.attention_backend = "banded"
    original = torch.nn.functional.scaled_dot_product_attention
    try:  # a back end that leaks between clips must not be timed
        torch.nn.functional.scaled_dot_product_attention = lambda q, k, v, attn_mask=None: original(q, k, v)
        with pytest.raises(AssertionError):
            script["check_equality"](model, [1.0, 2.5])
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
