"""The script that measures the fingerprint, on a few clips."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import measure_fingerprint

    return measure_fingerprint


def test_two_originals_correlate_at_their_best_lag_whatever_their_order(measure):
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(5000).astype(np.float32)
    assert measure.originals_correlate(sound, -0.5 * sound[1000:4000]) == pytest.approx(1, abs=1e-4)
    assert measure.originals_correlate(sound[1000:4000], sound) == pytest.approx(1, abs=1e-4)
    assert measure.originals_correlate(sound, rng.standard_normal(3000).astype(np.float32)) < 0.2


def test_it_leaves_a_table_with_a_line_for_every_copy(measure, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "COPIES", {name: measure.COPIES[name] for name in ("8 kHz", "-20 dB, 16 bits")})
    from hf_slap.data import load_corpus

    few = load_corpus(EXAMPLES / "data" / "heldout.parquet").select(range(7))
    monkeypatch.setattr(measure, "load_corpus", lambda source: few)
    monkeypatch.setattr(sys, "argv", ["measure_fingerprint.py", str(tmp_path), "few", "--queries", "3"])
    measure.main()
    facts = json.loads((tmp_path / "fingerprint.json").read_text())
    assert facts["clips"] == 7 and len(facts["rows"]) == 6
    assert "| 8 kHz | 1.000 | 1.000 |" in (tmp_path / "fingerprint.md").read_text()
