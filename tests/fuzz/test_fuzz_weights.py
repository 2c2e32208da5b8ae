"""Whatever lies in a folder of weights: a model comes out, or an error; no code of the folder runs."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from breaking import broken, soon
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

import hf_slap
from hf_slap.checkpoint import CheckpointError, last_checkpoint, load_checkpoint, save_checkpoint
from hf_slap.modeling.weights_slap import WeightsError, open_weights

TENSORS = {"a.weight": torch.arange(35.0).reshape(5, 7), "b": torch.zeros(3, dtype=torch.bfloat16), "c": torch.ones(1)}
SETTINGS = ("config.json", "processor_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")


@given(content=broken(save(TENSORS)) | st.binary(max_size=99))
def test_broken_safetensors(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "broken.safetensors"
    path.write_bytes(content)
    with soon():
        try:
            with open_weights(path) as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        except WeightsError as error:
            assert str(path) in str(error) and "; " in str(error)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    model, optimizer = learner()
    return save_checkpoint(tmp_path_factory.mktemp("run"), 7, model, optimizer, counters={"clips": 3})


def learner() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@given(data=st.data())
def test_broken_checkpoints(checkpoint, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "broken-run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint.parent, folder)
    chosen = data.draw(st.sampled_from(sorted((folder / checkpoint.name).iterdir())))
    changed = data.draw(broken(chosen.read_bytes()))
    if data.draw(st.booleans()):  # of the size that state.json says
        changed = changed[: chosen.stat().st_size].ljust(chosen.stat().st_size, b"\0")
    chosen.write_bytes(changed)
    with soon():
        last_checkpoint(folder)
        try:
            state = load_checkpoint(folder / checkpoint.name, *learner())
        except CheckpointError as error:
            assert checkpoint.name in str(error)
        else:
            assert isinstance(state, dict)


@given(data=st.data())
def test_broken_folders(tiny_folder, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "broken-model"
    if not folder.exists():
        folder.mkdir()
    for name in SETTINGS:
        shutil.copyfile(tiny_folder / name, folder / name)
    chosen = data.draw(st.sampled_from(SETTINGS))
    (folder / chosen).write_bytes(data.draw(broken((tiny_folder / chosen).read_bytes())))
    with soon(20):
        for load in (hf_slap.SlapModel, hf_slap.SlapForAudioCaptioning, hf_slap.SlapProcessor):
            try:
                load.from_pretrained(folder)
            except MemoryError:
                raise
            except Exception as error:  # of transformers and tokenizers: many classes
                assert str(error)


@given(data=st.data())
def test_hostile_settings(tiny_folder, tmp_path_factory, data):
    """Values of config.json, of every kind: a model comes out, or one of the errors that a caller expects."""
    folder = tmp_path_factory.getbasetemp() / "hostile-model"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(tiny_folder / "model.safetensors", folder / "model.safetensors")
    config = json.loads((tiny_folder / "config.json").read_text())
    parts = [config, config["audio_config"], config["text_config"], config["decoder_config"]]
    for _ in range(data.draw(st.integers(1, 3))):
        part = data.draw(st.sampled_from(parts))
        key = data.draw(st.sampled_from(sorted(part)))
        part[key] = data.draw(
            st.sampled_from([None, -1, 0, 1, 10**6, 0.5, "", "x/y", "../../x", [], {}, True, "nan"])
            | st.text(max_size=5)
        )
    (folder / "config.json").write_text(json.dumps(config))
    with soon(20):
        try:
            hf_slap.SlapModel.from_pretrained(folder)
        except MemoryError:
            raise
        except Exception as error:
            assert str(error)
