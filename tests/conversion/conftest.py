"""Checkpoints of CLAP with the random weights that the original's answers belong to."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"
sys.path.insert(0, str(GOLDEN))
import clap_checkpoints  # noqa: E402

KINDS = {"2022": clap_checkpoints.bert_like_tokenizer, "2023": clap_checkpoints.gpt2_like_tokenizer}

# Buffers that transformers kept among the weights when these checkpoints were published.
AS_OLDER_CODE_SAVED = {
    "2022": {"caption_encoder.base.embeddings.position_ids": torch.arange(512)[None]},
    "2023": {
        "caption_encoder.base.h.0.attn.bias": torch.ones(1, 1, 128, 128, dtype=torch.uint8).tril(),
        "caption_encoder.base.h.0.attn.masked_bias": torch.tensor(-1e4),
    },
}


@pytest.fixture(scope="session")
def given():
    """`tests/golden/clap_checkpoints.py`."""
    return clap_checkpoints


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """What the original said; written by `tests/golden/write_clap_reference.py`."""
    return dict(np.load(GOLDEN / "clap_reference.npz"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, golden) -> dict[str, Path]:
    """A folder for each version: its checkpoint as published, and its tokenizer."""
    shapes = json.loads((GOLDEN / "clap_reference.json").read_text())["shapes"]
    folders = {}
    for version, tokenizer in KINDS.items():
        folder = folders[version] = tmp_path_factory.mktemp(f"clap{version}")
        start = f"{version} fixed "
        fixed = {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}
        state = clap_checkpoints.make_state(shapes[version], fixed) | AS_OLDER_CODE_SAVED[version]
        torch.save({"model": state}, folder / "checkpoint.pth")
        tokenizer().save_pretrained(folder)
    return folders


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, list[Path]]:
    return clap_checkpoints.write_clips(tmp_path_factory.mktemp("clips"))
