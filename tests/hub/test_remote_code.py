"""A saved folder is complete: an interpreter that cannot see this project computes the same from it, bit for bit."""

import json

import pytest
from transformers import BertConfig, BertModel

import hf_slap
from hf_slap.use_folder import all_outputs

NAMES = ["modeling_slap.SlapModel", "processing_slap.SlapProcessor", "pipeline_slap.AudioCaptioningPipeline"]


@pytest.fixture(scope="module")
def with_package(tiny_folder, clip_files) -> dict:
    return all_outputs(str(tiny_folder), clip_files, trust_remote_code=False)


@pytest.fixture(scope="module")
def without_package(tiny_folder, use_slap, tmp_path_factory) -> dict:
    return use_slap(tiny_folder, with_package=False, environment={"HF_HOME": str(tmp_path_factory.mktemp("home"))})


def test_the_code_comes_from_the_package_or_from_the_folder(with_package, without_package):
    assert with_package["classes"] == [f"hf_slap.modeling.{name}" for name in NAMES]
    for found, name in zip(without_package["classes"], NAMES, strict=True):
        assert found.startswith("transformers_modules.") and found.endswith(name)


@pytest.mark.parametrize(
    "output",
    [
        "audio_embeds",
        "text_embeds",
        "logits_per_audio",
        "zero-shot-audio-classification",
        "audio-captioning",
        "audio-captioning, beams",
        "audio-feature-extraction",
    ],
)
def test_both_compute_the_same_bytes(with_package, without_package, output):
    assert with_package[output] == without_package[output]
    assert len(with_package[output]) > 0


def test_no_weight_is_missing_or_left_over(with_package, without_package):
    assert with_package["keys that do not fit"] == without_package["keys that do not fit"] == []


def test_without_package_and_without_trust_it_is_refused(without_package):
    assert "trust_remote_code=True" in without_package["refusal"]


def test_the_package_is_preferred_to_the_code_in_the_folder(tiny_folder):
    model = hf_slap.SlapModel.from_pretrained(tiny_folder, trust_remote_code=True)
    assert type(model) is hf_slap.SlapModel


def test_a_folder_saved_again_still_names_its_code_and_its_pipelines(tiny_folder, tiny_processor, tmp_path):
    model = hf_slap.SlapForPreTraining.from_pretrained(tiny_folder)
    hf_slap.save_folder(tmp_path, model, tiny_processor)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in tiny_folder.iterdir())
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (tiny_folder, tmp_path))
    assert first["auto_map"] == second["auto_map"]
    assert first["custom_pipelines"] == second["custom_pipelines"]
    assert set(second["custom_pipelines"]) == {"audio-captioning", "audio-feature-extraction"}


def test_the_checkpoint_of_another_model_is_refused(tmp_path):
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 17}
    BertModel(BertConfig(vocab_size=31, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="configuration of a 'bert' model, not of a 'slap' model"):
        hf_slap.SlapModel.from_pretrained(tmp_path)


def test_a_model_that_was_loaded_and_saved_again_keeps_its_pipelines(tiny_folder, tmp_path):
    hf_slap.SlapModel.from_pretrained(tiny_folder).save_pretrained(tmp_path)
    assert (tmp_path / "pipeline_slap.py").read_text() == (tiny_folder / "pipeline_slap.py").read_text()
    named = json.loads((tmp_path / "config.json").read_text())["custom_pipelines"]
    assert named["audio-captioning"]["impl"] == "pipeline_slap.AudioCaptioningPipeline"
