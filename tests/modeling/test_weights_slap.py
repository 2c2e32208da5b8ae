"""Weights come from safetensors only; every other file is refused with what it is and what to do, and is not opened."""

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

import hf_slap
from hf_slap.modeling.weights_slap import WeightsError, open_weights
from hf_slap.starting_points import checkpoint_shapes


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def folder(tiny_folder, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_whole_weights_open(folder):
    with open_weights(folder / "model.safetensors") as file:
        assert "slap.logit_scale" in set(file.keys())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda good: b"", "is empty; fetch or write the file again"),
        (lambda good: good[:-1], r"is cut short: [\d,]+ bytes of at least [\d,]+; fetch"),
        (lambda good: good[:300], "is cut short"),
        (lambda good: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (lambda good: b"<!doctype html><title>Sign in</title>", "is no safetensors file, or it is damaged"),
        (lambda good: good[:9] + b"\0" + good[10:], "is no safetensors file, or it is damaged"),
        (
            lambda good: pickle.dumps({"weight": [1.0]}),
            "is a pickle under the name of a safetensors file; .* so it was not opened",
        ),
    ],
    ids=["empty", "last byte", "header", "git lfs", "web page", "damaged", "pickle"],
)
def test_what_is_wrong_is_said_by_everything_that_reads_weights(folder, damage, message):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    for read in (hf_slap.SlapModel.from_pretrained, hf_slap.SlapAudioModel.from_pretrained, checkpoint_shapes):
        with pytest.raises(WeightsError, match=message) as caught:
            read(folder)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_opened(folder, tmp_path, name):
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    for load in (hf_slap.SlapModel, hf_slap.SlapForAudioCaptioning, hf_slap.SlapForPreTraining, hf_slap.SlapAudioModel):
        with pytest.raises(WeightsError, match=f"{name}.* opening a pickle can run code"):
            load.from_pretrained(folder)
    with pytest.raises(ValueError, match="safetensors only"):
        hf_slap.SlapModel.from_pretrained(folder, use_safetensors=False)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()  # so it would have shown


def test_harmless_pickles_are_refused_too(folder):
    torch.save({"logit_scale": torch.ones(1)}, folder / "pytorch_model.bin")
    hf_slap.SlapModel.from_pretrained(folder)  # beside safetensors it is not looked at
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="has pytorch_model.bin and no model.safetensors"):
        hf_slap.SlapModel.from_pretrained(folder)


def test_an_adapter_comes_from_safetensors_too(tiny_folder, tmp_path):
    model = hf_slap.SlapModel.from_pretrained(tiny_folder)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["o_proj"]}')
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(WeightsError, match="has adapter_model.bin and no adapter_model.safetensors"):
        model.load_adapter(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_an_adapter_of_the_hub_that_is_a_pickle_is_not_opened_either(tiny_folder, tmp_path):
    commit = "0" * 40
    snapshot = tmp_path / "models--org--evil" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "models--org--evil" / "refs").mkdir()
    (tmp_path / "models--org--evil" / "refs" / "main").write_text(commit)
    (snapshot / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["o_proj"]}')
    (snapshot / "adapter_model.bin").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    model = hf_slap.SlapModel.from_pretrained(tiny_folder)
    with pytest.raises(WeightsError, match="adapter_model.bin' is a pickle; .* so it was not opened"):
        model.load_adapter("org/evil", adapter_kwargs={"cache_dir": str(tmp_path), "local_files_only": True})
    assert not (tmp_path / "ran").exists()


def test_a_part_of_sharded_weights_that_is_cut_short_is_named(tiny_folder, tmp_path):
    hf_slap.SlapForPreTraining.from_pretrained(tiny_folder).save_pretrained(tmp_path, max_shard_size="100KB")
    parts = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(parts) > 2
    hf_slap.SlapModel.from_pretrained(tmp_path)
    parts[1].write_bytes(parts[1].read_bytes()[:-9])
    with pytest.raises(WeightsError, match=f"{parts[1].name}' is cut short"):
        hf_slap.SlapModel.from_pretrained(tmp_path)


def test_a_folder_without_weights_says_so_in_the_words_of_transformers(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="no file named model.safetensors"):
        hf_slap.SlapModel.from_pretrained(folder)


@pytest.mark.parametrize("key", ["attn_implementation", "experts_implementation"])
@pytest.mark.parametrize("part", [None, "text_config", "audio_config"])
def test_a_configuration_cannot_fetch_code(key, part):
    keywords = {key: "somebody/kernel"}
    with pytest.raises(ValueError, match=f"{key}='somebody/kernel' would fetch code from the Hub"):
        hf_slap.SlapConfig(**({part: keywords} if part else keywords))
