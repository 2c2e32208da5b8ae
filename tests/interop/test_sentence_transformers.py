"""SentenceTransformer knows a saved folder, by path or by name, with and without this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub.loopback_hub import LoopbackHub
from sentence_transformers import SentenceTransformer

import hf_slap

TEXTS = ["a dog", "rain", "a hammer on metal"]

# Runs where hf_slap cannot be imported.
WITHOUT_PACKAGE = """
import json, sys

sys.modules["hf_slap"] = None
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], trust_remote_code=True)
texts, clips = json.loads(sys.argv[2]), [{"audio": clip} for clip in sys.argv[3:]]
print(json.dumps([type(model[0].model).__module__, model.encode(texts).tolist(), model.encode(clips).tolist()]))
"""


@pytest.fixture(scope="module")
def sentences(tiny_folder):
    return SentenceTransformer(str(tiny_folder))


@pytest.fixture(scope="module")
def expected(tiny_folder, tiny_processor, real_clips) -> dict[str, np.ndarray]:
    """The embeddings of `TEXTS` and of three clips by the model itself."""
    model = hf_slap.SlapModel.from_pretrained(tiny_folder)
    inputs = tiny_processor(text=TEXTS, audio=real_clips[:3], return_tensors="pt")
    with torch.inference_mode():
        text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
        audio = model.get_audio_features(inputs["input_features"], inputs["input_features_mask"]).pooler_output
    return {"text": text.numpy(), "audio": audio.numpy()}


@pytest.fixture(scope="module")
def clip_paths(real_clips, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    for number, clip in enumerate(real_clips[:3]):
        (folder / f"{number}.ogg").write_bytes(clip["bytes"])
    return sorted(map(str, folder.iterdir()))


def test_texts_and_clips_in_every_form(sentences, expected, tiny_processor, clip_paths):
    waves = [tiny_processor.feature_extractor.load(path) for path in clip_paths]
    forms = {
        "paths": clip_paths,
        "paths that say what they are": [{"audio": path} for path in clip_paths],
        "arrays": [{"array": wave, "sampling_rate": 16_000} for wave in waves],
        "tensors": [{"audio": {"array": torch.from_numpy(wave), "sampling_rate": 16_000}} for wave in waves],
    }
    np.testing.assert_allclose(sentences.encode(TEXTS), expected["text"], atol=1e-5)
    for form, clips in forms.items():
        np.testing.assert_allclose(sentences.encode(clips), expected["audio"], atol=1e-5, err_msg=form)


def test_an_array_at_another_rate_is_resampled_and_one_without_a_rate_refused(sentences, tiny_processor, clip_paths):
    wave = np.repeat(tiny_processor.feature_extractor.load(clip_paths[0]), 2)
    model, extractor = sentences[0].model, tiny_processor.feature_extractor
    with torch.inference_mode():
        inputs = extractor(wave, sampling_rate=32_000, resample=True, return_tensors="pt")
        expected = model.get_audio_features(**inputs).pooler_output[0].numpy()
    found = sentences.encode([{"array": wave, "sampling_rate": 32_000}])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    with pytest.raises(hf_slap.AudioError, match="sampling_rate"):
        sentences.encode([wave])


def test_similarity_is_the_cosine_of_the_joint_space(sentences, expected, clip_paths):
    assert sentences.get_embedding_dimension() == 11
    found = sentences.similarity(sentences.encode(clip_paths), sentences.encode(TEXTS))
    np.testing.assert_allclose(found, expected["audio"] @ expected["text"].T, atol=1e-5)


def test_what_the_folder_holds_is_what_sentence_transformers_would_write(sentences, tiny_folder, tmp_path):
    sentences.save_pretrained(str(tmp_path))
    for name in ("modules.json", "sentence_bert_config.json"):
        assert json.loads((tiny_folder / name).read_text()) == json.loads((tmp_path / name).read_text())
    ours = json.loads((tiny_folder / "config_sentence_transformers.json").read_text())
    theirs = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert ours.items() <= theirs.items()


def test_a_model_without_texts_names_no_sentences(tiny_folder, tiny_processor, tmp_path):
    model = hf_slap.SlapForAudioClassification.from_pretrained(tiny_folder, num_labels=3)
    hf_slap.save_folder(tmp_path, model, tiny_processor)
    assert not (tmp_path / "modules.json").exists()


def test_by_name_without_this_package(tiny_folder, expected, clip_paths, tmp_path):
    with LoopbackHub() as hub:
        hub.repositories["models/org/slap"] = []
        files = {path.name: path.read_bytes() for path in Path(tiny_folder).iterdir()}
        hub.commit("models/org/slap", files)
        command = [sys.executable, "-c", WITHOUT_PACKAGE, "org/slap", json.dumps(TEXTS), *clip_paths]
        environment = {**os.environ, **hub.environment(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    code, text, audio = json.loads(done.stdout.splitlines()[-1])
    assert code.startswith("transformers_modules.org.slap.")
    np.testing.assert_allclose(text, expected["text"], atol=1e-5)
    np.testing.assert_allclose(audio, expected["audio"], atol=1e-5)
