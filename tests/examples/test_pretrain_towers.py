"""The pretraining script with other towers, on real clips: CLAP 2023's, and one that a user plugs in."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import pipeline

import hf_slap
from examples import pretrain
from hf_slap import SlapModel, SlapProcessor
from hf_slap.training_log import read_metrics

ROOT = Path(__file__).parents[2]
SMALL = [
    f"train_data={ROOT / 'examples' / 'data' / 'train.parquet'}", "train_split=train[:24]",
    f"validation_data={ROOT / 'examples' / 'data' / 'heldout.parquet'}", "validation_split=train[:6]",
    "text_model=null", "tokenizer=captions", "max_caption_tokens=24", "model.projection_dim=16",
    "model.text_config={model_type: gpt2, n_embd: 32, n_layer: 1, n_head: 2, n_positions: 24}",
    "model.text_pooling=last", "model.projection=residual_mlp", "model.projection_dropout=0.0",
    "model.decoder_config={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}",
    "batch_seconds=20", "total_steps=5", "warmup_steps=1", "peak_learning_rate=1e-3", "masked_weight=0",
    "workers=0", "log_every=1", "validate_every=5", "checkpoint_every=5", "tracker=none", "precision=float32",
]  # fmt: skip
HTSAT = (
    "model.audio_config={model_type: slap_htsat, spec_size: 128, patch_embeds_hidden_size: 8, hidden_size: 32, "
    "depths: [1, 1, 1], num_attention_heads: [2, 2, 2], attention_window: 4, max_audio_seconds: 1.7}"
)
WHISPER = (
    "model.audio_config={model_type: whisper_tower, num_mel_bins: 80, hidden_size: 64, encoder_layers: 1, "
    "max_audio_seconds: 1.4}"
)


@pytest.fixture(scope="module")
def whisper_tower(tmp_path_factory):
    """The encoder of the README, in a file of a user's."""
    readme = (ROOT / "README.md").read_text()
    [block] = [b for b in re.findall(r"^```python\n(.*?)^```", readme, re.DOTALL | re.MULTILINE) if "WhisperTower" in b]
    path = tmp_path_factory.mktemp("user") / "whisper_tower.py"
    path.write_text(block.partition("foreign =")[0])
    spec = importlib.util.spec_from_file_location("whisper_tower", path)
    sys.modules["whisper_tower"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(folder, *overrides) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)
    return pretrain.main([*SMALL, f"run_folder={folder}", *overrides])


@pytest.fixture(scope="module", params=[HTSAT, WHISPER], ids=["htsat", "whisper"])
def trained(request, tmp_path_factory, whisper_tower) -> Path:
    return train(tmp_path_factory.mktemp("run"), request.param)


def test_both_losses_are_learned(trained):
    rows = [row for row in read_metrics(trained.parent) if row["kind"] == "train"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    for part in ("contrastive", "caption"):
        assert rows[-1][part] < rows[0][part]
    assert all(row["utilisation"] > 0 for row in rows if "utilisation" in row)


def test_the_saved_folder_answers_as_the_model_does(trained, real_clips):
    model, processor = SlapModel.from_pretrained(trained).eval(), SlapProcessor.from_pretrained(trained)
    inputs = processor.feature_extractor(real_clips, return_tensors="pt")
    with torch.no_grad():
        embeds = model.get_audio_features(**inputs).pooler_output
        first = model.get_audio_features(inputs["input_features"][:1, : inputs["input_features_mask"][0].sum()])
        again = SlapModel.from_pretrained(trained).eval().get_audio_features(**inputs).pooler_output
    assert torch.equal(embeds, again)
    assert torch.allclose(embeds[0], first.pooler_output[0], atol=1e-5)
    found = hf_slap.embed(real_clips, trained, progress=False).dataset.with_format("torch")["embedding"][:]
    assert torch.allclose(found, embeds, atol=1e-5)
    classify = pipeline("zero-shot-audio-classification", model=str(trained))
    waveform = processor.feature_extractor.load(real_clips[0])
    answers = {one["label"]: one["score"] for one in classify(waveform, candidate_labels=["rain", "a dog"])}
    texts = processor(text=["This is a sound of rain.", "This is a sound of a dog."], return_tensors="pt")
    with torch.no_grad():
        by_hand = (model.scale * first.pooler_output @ model.get_text_features(**texts).pooler_output.T).softmax(-1)[0]
    assert [answers["rain"], answers["a dog"]] == pytest.approx(by_hand.tolist(), abs=1e-4)
    [caption] = pipeline("audio-captioning", model=str(trained))(real_clips[0], max_new_tokens=4)
    assert isinstance(caption["generated_text"], str)


def test_masked_prediction_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ValueError, match="set masked_weight=0"):
        train(tmp_path, HTSAT, "masked_weight=1")
