"""Clips of the shipped corpus for tests that need real sound. Nothing outside the repository is read."""

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from datasets import Dataset

from hf_slap.data import load_corpus, train_tokenizer

SHIPPED = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture(scope="session")
def shipped() -> Path:
    return SHIPPED


@pytest.fixture(scope="session")
def clips() -> list[dict]:
    """13 short clips of the shipped held-out file, as plain rows."""
    columns = ["id", "audio", "captions", "label", "duration"]
    rows = pq.read_table(SHIPPED / "heldout.parquet", columns=columns).to_pylist()
    return sorted((row for row in rows if 0.3 < row["duration"] < 2.0), key=lambda row: row["id"])[:13]


@pytest.fixture
def corpus(clips) -> Dataset:
    return load_corpus(Dataset.from_list(clips))


@pytest.fixture(scope="session")
def tokenizer(clips):
    captions = [caption for clip in clips for caption in clip["captions"]]
    return train_tokenizer(captions, vocab_size=331, max_length=37)


@pytest.fixture
def extractor():
    from hf_slap.modeling.feature_extraction_slap import SlapFeatureExtractor

    return SlapFeatureExtractor()


@pytest.fixture
def wav():
    """wav(seconds, seed) gives the bytes of a mono 16 kHz WAV file of noise."""

    def make(seconds: float, seed: int = 0) -> bytes:
        noise = 0.1 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))
        file = io.BytesIO()
        soundfile.write(file, noise, 16_000, format="WAV")
        return file.getvalue()

    return make
