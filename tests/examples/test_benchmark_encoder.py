"""What the benchmark runs and compares; how long anything takes is not tested."""

import runpy
from pathlib import Path

import pytest
import torch

from hf_slap import SlapAudioConfig, SlapAudioModel

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_encoder.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(SCRIPT)


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
