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


@pytest.fixture(scope="session")
def records(clips) -> list:
    """The 13 clips as raw records: 10 to train, 3 to test."""
    from hf_slap.data.records import Caption, Record

    return [
        Record(
            id=f"shipped/{clip['id']}",
            source="shipped" if number % 3 else "other",
            source_id=f"package:{clip['id']}",
            audio=clip["audio"],
            captions=[Caption(text, provenance="template") for text in clip["captions"]],
            license="CC-BY-SA-3.0",
            redistributable=True,
            domain="sound",
            split="train" if number < 10 else "test",
            labels=[clip["label"]],
        )
        for number, clip in enumerate(clips)
    ]


@pytest.fixture(scope="session")
def changed_sound():
    """changed_sound(audio, trim=..., gain=..., **format): the sound of a clip, cut at both ends and encoded anew."""
    from hf_slap.modeling.audio_slap import load_waveform

    def make(audio: dict, trim: float = 0.0, gain: float = 1.0, **format) -> dict:
        waveform = gain * load_waveform(audio, 16_000)
        waveform = waveform[round(trim * len(waveform)) : len(waveform) - round(trim * len(waveform))]
        file = io.BytesIO()
        soundfile.write(file, waveform, 16_000, **(format or {"format": "FLAC"}))
        return {"bytes": file.getvalue(), "path": None}

    return make


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory):
    """make_corpus(source, [fields of a Record, ...]) prepares a corpus and gives its folder; sounds stay as they are."""
    from hf_slap.data import Caption, PrepareSettings, Record, SoundSettings, prepare

    common = {"license": "CC0-1.0", "redistributable": True, "domain": "sound"}
    settings = PrepareSettings(sound=SoundSettings(codec="keep", sampling_rate=None))

    def make(source: str, rows: list[dict]) -> Path:
        folder = tmp_path_factory.mktemp(source)
        records = []
        for row in rows:
            row = {**common, "source": source, "source_id": f"{source}:{row['id']}", **row}
            row["captions"] = [Caption(one) if isinstance(one, str) else one for one in row["captions"]]
            records.append(Record(**{**row, "id": f"{source}/{row['id']}"}))
        prepare(records, folder, settings, workers=1)
        return folder

    return make
