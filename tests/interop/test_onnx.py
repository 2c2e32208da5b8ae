"""What torch.export and onnxruntime make of both towers is what the model makes, whatever is padded how."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import pipeline

import hf_slap
from hf_slap import onnx

ROOT = Path(__file__).parents[2]
TEXTS = ["a dog", "rain", "a hammer on metal"]
CLOSE = {"rtol": 0, "atol": 1e-5}

# Runs where neither torch nor transformers can be imported.
WITHOUT_TORCH = """
import json, runpy, sys

sys.modules["torch"] = sys.modules["transformers"] = None
Slap = runpy.run_path(sys.argv[1])["OnnxSlap"]
slap, *clips = Slap(sys.argv[2]), *sys.argv[3:]
labels = ["dog", "rain", "hammer"]
print(json.dumps([[slap.embed_sound(clip).tolist(), slap.classify(clip, labels, "{}")] for clip in clips]))
"""


@pytest.fixture(scope="module")
def folder(tiny_config, tiny_processor, tmp_path_factory):
    """A model that hears at most 1.2 s in one piece, with one local and one global layer."""
    config = hf_slap.SlapConfig.from_dict(tiny_config.to_dict())
    config.audio_config.max_audio_seconds, config.audio_config.window_overlap_seconds = 1.2, 0.2
    config.audio_config.num_hidden_layers = 2
    config.audio_config.layer_types = ["sliding_attention", "full_attention"]
    folder = tmp_path_factory.mktemp("slap-short")
    torch.manual_seed(0)
    hf_slap.save_folder(folder, hf_slap.SlapForPreTraining(config), tiny_processor)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return hf_slap.SlapModel.from_pretrained(folder)


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    """The folder that `export_onnx` writes, what it returns, and the programs on the way there."""
    out, kept = tmp_path_factory.mktemp("onnx"), {}
    original = onnx.export_towers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx, "export_towers", lambda model: kept.setdefault("programs", original(model)))
        differences = onnx.export_onnx(folder, out)
    return out, differences, kept["programs"]


@pytest.fixture(scope="module", params=["torch.export", "onnxruntime"])
def tower(exported, request):
    """tower(side, *inputs) -> outputs by name."""
    out, _, programs = exported

    def run(side: str, *inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if request.param == "torch.export":
            return programs[side].module()(*inputs)
        session = onnxruntime.InferenceSession(out / f"{side}_model.onnx")
        names = [tensor.name for tensor in session.get_inputs()]
        found = session.run(None, {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        return {tensor.name: torch.from_numpy(x) for tensor, x in zip(session.get_outputs(), found, strict=True)}

    return run


@pytest.fixture(scope="module")
def sound(tiny_processor, real_clips):
    """Features and mask of real clips of unequal lengths that fit into one window, padded into one batch."""
    waves = [tiny_processor.feature_extractor.load(clip) for clip in real_clips]
    short = [wave for wave in waves if len(wave) < 1.2 * 16_000]
    inputs = tiny_processor(audio=short, sampling_rate=16_000, return_tensors="pt")
    assert len(short) > 2 and len({len(wave) // 2560 for wave in short}) > 2
    return inputs["input_features"], inputs["input_features_mask"]


def test_clips_of_several_lengths_in_one_batch(tower, model, sound):
    found = tower("audio", *sound)
    with torch.inference_mode():
        expected = model.get_audio_features(*sound)
    torch.testing.assert_close(found["audio_embeds"], expected.pooler_output, **CLOSE)
    torch.testing.assert_close(found["last_hidden_state"], expected.last_hidden_state, **CLOSE)
    assert torch.equal(found["token_mask"], expected.attention_mask)


def test_neither_padding_nor_batch_mates_change_a_clip(tower, model, sound):
    features, mask = sound
    together = tower("audio", features, mask)["audio_embeds"]
    for row in range(len(features)):
        filled = torch.nn.functional.pad(features[row : row + 1, : mask[row].sum()], (0, 0, 0, 13), value=3.0)
        filled_mask = torch.nn.functional.pad(torch.ones(1, filled.shape[1] - 13, dtype=torch.long), (0, 13))
        alone = tower("audio", filled, filled_mask)["audio_embeds"]
        torch.testing.assert_close(alone[0], together[row], **CLOSE)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[1:2]])
def test_texts_of_several_lengths(tower, model, tiny_processor, texts):
    inputs = tiny_processor(text=texts, return_tensors="pt")
    found = tower("text", inputs["input_ids"], inputs["attention_mask"])["text_embeds"]
    with torch.inference_mode():
        torch.testing.assert_close(found, model.get_text_features(**inputs).pooler_output, **CLOSE)


def test_a_program_refuses_what_the_model_would_hear_in_windows(exported):
    features = torch.zeros(1, 200, 64)
    with pytest.raises((AssertionError, RuntimeError), match="input_features"):
        exported[2]["audio"].module()(features, torch.ones(1, 200, dtype=torch.long))


def test_the_example_classifies_without_torch_as_the_pipeline_does(exported, folder, model, real_clips, tmp_path):
    clips = []
    for number, clip in enumerate(real_clips):  # some are longer than one window
        clips.append(tmp_path / f"{number}.ogg")
        clips[-1].write_bytes(clip["bytes"])
    script = ROOT / "examples" / "onnx_without_torch.py"
    command = [sys.executable, "-c", WITHOUT_TORCH, script, exported[0], *clips]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    processor = hf_slap.SlapProcessor.from_pretrained(folder)
    classify = pipeline("zero-shot-audio-classification", model=str(folder))
    for clip, (embedding, shares) in zip(clips, json.loads(done.stdout), strict=True):
        with torch.inference_mode():
            expected = model.get_audio_features(**processor(audio=str(clip), return_tensors="pt")).pooler_output
        np.testing.assert_allclose(embedding, expected[0], atol=1e-5)
        wave = processor.feature_extractor.load(clip)
        answer = classify(wave, candidate_labels=["dog", "rain", "hammer"], hypothesis_template="{}")
        assert shares == pytest.approx({one["label"]: one["score"] for one in answer}, abs=1e-4)


def test_the_tokenizer_beside_it_pads_and_truncates_by_itself(exported, tiny_processor):
    from tokenizers import Tokenizer

    texts = ["rain", "a dog barks and barks and barks and barks and barks and barks and barks"]
    with pytest.warns(UserWarning, match="cut off"):
        expected = tiny_processor(text=texts, return_tensors="np")
    found = Tokenizer.from_file(str(exported[0] / "tokenizer.json")).encode_batch(texts)
    assert [one.ids for one in found] == expected["input_ids"].tolist()
    assert [one.attention_mask for one in found] == expected["attention_mask"].tolist()


def test_what_is_written_was_tried_and_tells_nothing_of_this_machine(exported):
    out, differences, _ = exported
    assert sorted(differences) == ["audio_model.onnx", "text_model.onnx"]
    assert all(0 <= difference < 1e-5 for difference in differences.values())
    assert {path.name for path in out.iterdir()} == {*differences, "settings.json", "tokenizer.json"}
    places = [str(Path(place)).encode() for place in (ROOT, Path(torch.__file__).parent)]
    assert not [path.name for path in out.iterdir() if any(place in path.read_bytes() for place in places)]


def test_a_missing_library_is_named_with_its_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"hf_slap\[onnx\]"):
        onnx.export_onnx(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_text_tower_is_refused(folder, tiny_processor, tmp_path):
    hf_slap.SlapForAudioClassification.from_pretrained(folder, num_labels=3).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks weights of the joint space"):
        onnx.export_onnx(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("unit", ["patch_columns", "tokens", "exact_columns"])
def test_what_keeps_the_padding_computes_what_is_packed(tiny_config, sound, unit, monkeypatch):
    config = hf_slap.SlapAudioConfig.from_dict({**tiny_config.audio_config.to_dict(), "local_window_unit": unit})
    torch.manual_seed(0)
    model = hf_slap.SlapAudioModel(config).eval()
    with torch.inference_mode():
        packed = model(*sound, output_hidden_states=True)
        whole = model(sound[0])
        monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
        padded = model(*sound, output_hidden_states=True)
        torch.testing.assert_close(model(sound[0]).pooler_output, whole.pooler_output, **CLOSE)
    mask = packed.attention_mask
    for name in ("last_hidden_state", "pooler_output", "token_seconds"):
        torch.testing.assert_close(padded[name], packed[name], **CLOSE)
    for one, other in zip(padded.hidden_states, packed.hidden_states, strict=True):
        torch.testing.assert_close(one[mask], other[mask], **CLOSE)
    assert torch.equal(padded.attention_mask, mask)
