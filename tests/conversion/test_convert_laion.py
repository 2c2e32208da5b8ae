"""LAION's CLAP as its own package laion_clap 1.1.7 runs it: the same answers from transformers' ClapModel.

As for Microsoft's: its classes in a reduced size with random weights; tests/golden/write_laion_reference.py wrote what
they said of real sounds.
"""

import json

import numpy as np
import pytest
import soundfile
import torch
from transformers import ClapModel, ClapProcessor

from hf_slap.conversion import RECORD, ConversionError, convert

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def laion(golden_folder) -> tuple[dict, dict]:
    """Shapes of the checkpoints, and what the original said."""
    said = json.loads((golden_folder / "laion_reference.json").read_text())
    return said["shapes"], dict(np.load(golden_folder / "laion_reference.npz"))


@pytest.fixture(scope="module")
def checkpoint(laion, given, tmp_path_factory):
    shapes, golden = laion

    def write(kind):
        folder = tmp_path_factory.mktemp(kind)
        start = f"{kind} fixed "
        fixed = {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}
        state = given.make_state(shapes[kind], fixed)
        state["text_branch.embeddings.position_ids"] = torch.arange(82)[None]  # as older ones have it
        state = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 1, "best": np.float64(0.5), "state_dict": state}, folder / "laion.pt")
        given.roberta_like_tokenizer().save_pretrained(folder)
        return folder

    return write


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_embeddings_and_logits_are_the_originals(kind, checkpoint, laion, given, tmp_path):
    source, golden = checkpoint(kind), laion[1]
    dropped = convert(source / "laion.pt", tmp_path / "model", tokenizer=source)
    assert {key.split(".")[0] for key in dropped} == {
        "audio_branch",
        "audio_transform",
        "text_transform",
        "text_branch",
    }
    assert json.loads((tmp_path / "model" / RECORD).read_text())["version"] == "laion"
    model = ClapModel.from_pretrained(tmp_path / "model").eval()
    processor = ClapProcessor.from_pretrained(tmp_path / "model")
    assert model.config.audio_config.enable_fusion == (kind == "fused")
    text = processor(text=given.TEXTS, return_tensors="pt", padding=True)
    embeds = {"short": [], "as_long": []}
    for file in given.write_clips(tmp_path, 48_000)["short"]:
        sound = (soundfile.read(file, dtype="float32")[0] * 32767).astype(np.int16) / np.float32(32767)  # as it does
        audio = processor(audio=sound, sampling_rate=48_000, return_tensors="pt")
        with torch.no_grad():
            # transformers' feature extractor calls one clip of each batch long, the original none that is not
            embeds["as_long"].append(model(**text, **audio).audio_embeds)
            output = model(**text, **{**audio, "is_longer": torch.tensor([[False]])})
        embeds["short"].append(output.audio_embeds)
    for heard, of_clips in embeds.items():
        assert np.abs(torch.cat(of_clips).numpy() - golden[f"{kind} {heard}"]).max() < TOLERANCE
    assert np.abs(output.text_embeds.numpy() - golden[f"{kind} texts"]).max() < TOLERANCE
    logits = model.logit_scale_a.exp().item() * torch.cat(embeds["short"]) @ output.text_embeds.T
    assert np.abs(logits.numpy() - golden[f"{kind} similarity"]).max() < TOLERANCE
    assert logits.std() > 0.1


def test_compat_is_microsofts(checkpoint, tmp_path):
    with pytest.raises(ConversionError, match="for Microsoft's CLAP"):
        convert(checkpoint("plain") / "laion.pt", tmp_path / "model", compat=True)
