"""What the benchmark of the index draws and compares; how long anything takes is not tested."""

import runpy
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "benchmark_search.py"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(SCRIPT)


@pytest.fixture(scope="module")
def anchors() -> np.ndarray:
    """Three tight groups far from each other."""
    rng = np.random.default_rng(0)
    values = np.repeat(np.eye(3, 7), 20, axis=0) + 0.05 * rng.normal(size=(60, 7))
    return (values / np.linalg.norm(values, axis=1)[:, None]).astype(np.float32)


def test_drawn_vectors_lie_around_the_anchors_as_these_around_each_other(script, anchors):
    drawn = script["Drawn"](anchors)
    vectors = drawn.block(999, np.random.default_rng(1))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    nearest = (vectors @ anchors.T).max(1)
    assert 0.97 < nearest.mean() < 0.9999  # near, and no copies
    assert np.bincount(vectors[:, :3].argmax(1)) == pytest.approx([333] * 3, abs=70)


def test_the_search_finds_what_comparing_with_each_finds(script, anchors, tmp_path):
    script["fill"](tmp_path, anchors, 700)
    script["build"](tmp_path)
    script["update_again"](tmp_path, 700)
    queries = anchors[::13]
    truth = script["compare_all"](tmp_path, queries)
    found, took = script["search"](tmp_path, queries, 16, True)
    assert truth.shape == (5, 10) and found == truth.tolist() and len(took) == 5
