"""CLAP 2022 and 2023 as Microsoft's msclap 1.3.4 runs them: the same answers from the converted folder.

The classes of msclap were built in a reduced size with random weights; tests/golden/write_clap_reference.py wrote what
they said of real sounds, and the same weights are made again here.
"""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from hf_slap import SlapModel
from hf_slap.cli import main
from hf_slap.conversion import RECORD, ConversionError, convert, read_checkpoint

VERSIONS = ("2022", "2023")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folders(checkpoints, tmp_path_factory):
    """By version and compat: what `convert` made."""
    made = {}
    for version, source in checkpoints.items():
        for compat in (False, True):
            folder = made[version, compat] = tmp_path_factory.mktemp(f"converted{version}") / "model"
            convert(source / "checkpoint.pth", folder, tokenizer=source, compat=compat)
    return made


@pytest.fixture(scope="module")
def load(folders):
    def one(version, compat=False):
        folder = folders[version, compat]
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        assert type(model) is SlapModel
        return SimpleNamespace(model=model.eval(), processor=processor)

    return one


@torch.no_grad()
def raw_audio(it, files, given):
    """Before the norm, which the original leaves to its users."""
    given.draw()
    inputs = it.processor(audio=[str(file) for file in files], return_tensors="pt")
    return it.model.audio_projection(it.model.audio_model(**inputs).pooler_output)


@torch.no_grad()
def raw_text(it, texts):
    inputs = it.processor(text=texts, return_tensors="pt")
    output = it.model.text_model(**inputs)
    return it.model.text_projection(it.model._pool_text(output, inputs["input_ids"], inputs["attention_mask"]))


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_embeddings_and_logits_are_the_originals(version, compat, load, clips, golden, given):
    it = load(version, compat)
    audio, text = raw_audio(it, clips["short"], given), raw_text(it, given.TEXTS)
    assert np.abs(audio.numpy() - golden[f"{version} short"]).max() < TOLERANCE
    assert np.abs(text.numpy() - golden[f"{version} texts"]).max() < TOLERANCE
    inputs = it.processor(text=given.TEXTS, audio=[str(f) for f in clips["short"]], return_tensors="pt")
    with torch.no_grad():
        logits = it.model(**inputs).logits_per_audio
    assert logits.shape == (len(given.SHORT), len(given.TEXTS))
    assert np.abs(logits.numpy() - golden[f"{version} similarity"]).max() < TOLERANCE
    assert logits.std() > 0.1, "random weights that hear no difference would prove nothing"


@pytest.mark.parametrize("kind", ["stereo", "long"])
@pytest.mark.parametrize("version", VERSIONS)
def test_stereo_and_long_clips_are_the_originals_on_request_alone(version, kind, load, clips, golden, given):
    wanted = golden[f"{version} {kind}"]
    compat = raw_audio(load(version, True), clips[kind], given).numpy()
    assert np.abs(compat - wanted).max() < TOLERANCE
    assert np.abs(raw_audio(load(version), clips[kind], given).numpy() - wanted).max() > 10 * TOLERANCE


def windowed_sinc(sound: np.ndarray, old: int, new: int, crossings: int = 6, rolloff: float = 0.99) -> np.ndarray:
    """A sound (n,) at another rate: a sum of sincs under Hann windows, as the original's torchaudio resamples."""
    cutoff = min(old, new) * rolloff
    at = np.arange(-(-len(sound) * new // old)) / new  # seconds
    reach = int(crossings * old / cutoff) + 1
    near = (at * old).astype(int)[:, None] + np.arange(-reach, reach + 2)  # samples in reach of each new one
    turns = (cutoff * (at[:, None] - near / old)).clip(-crossings, crossings)
    weight = np.sinc(turns) * np.cos(np.pi * turns / crossings / 2) ** 2 * cutoff / old
    inside = (near >= 0) & (near < len(sound))
    return (weight * sound[near.clip(0, len(sound) - 1)] * inside).sum(1).astype(np.float32)


@pytest.mark.parametrize("version", VERSIONS)
def test_at_another_rate_only_the_resampler_differs(version, load, clips, golden, given):
    """soxr, which this package uses, and torchaudio leave other traces above half of the clip's rate."""
    sounds = [windowed_sinc(*soundfile.read(file), given.RATE) for file in clips["other_rate"]]
    with torch.no_grad():
        it = load(version)
        inputs = it.processor(audio=sounds, sampling_rate=given.RATE, return_tensors="pt")
        ours = it.model.audio_projection(it.model.audio_model(**inputs).pooler_output)
    assert np.abs(ours.numpy() - golden[f"{version} other_rate"]).max() < 100 * TOLERANCE


def test_exclamation_marks_move_the_end_in_the_original_alone(load, golden, given):
    wanted = golden["2023 shouts"]
    assert np.abs(raw_text(load("2023", True), given.SHOUTS).numpy() - wanted).max() < TOLERANCE
    ours = load("2023")
    assert np.abs(raw_text(ours, given.SHOUTS).numpy() - wanted).max() > 100 * TOLERANCE
    ids = ours.processor(text=given.SHOUTS[0])["input_ids"][0]
    with torch.no_grad():
        end = ours.model.text_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    assert ids[-2:] == ours.processor.tokenizer.convert_tokens_to_ids(["Ġ", "<|endoftext|>"])
    pooled = ours.model.text_projection(end).detach()
    assert torch.allclose(raw_text(ours, given.SHOUTS)[0], pooled, atol=1e-5)


def test_a_long_text_is_cut_and_keeps_its_end(load):
    it = load("2023")
    with pytest.warns(UserWarning, match="the limit is 77"):
        ids = it.processor(text=["rain " * 200])["input_ids"][0]
    assert len(ids) == 77 and ids[-2:] == it.processor.tokenizer.convert_tokens_to_ids(["Ġ", "<|endoftext|>"])


def test_the_folder_says_what_was_left_out_and_holds_no_pickle(folders, checkpoints):
    folder = folders["2023", False]
    record = json.loads((folder / RECORD).read_text())
    held = read_checkpoint(checkpoints["2023"] / "checkpoint.pth")
    assert record["version"] == "2023" and record["keys"] == len(held)
    assert (
        "audio_encoder.base.htsat.logmel_extractor.melW" in record["dropped"] and record["dropped"].keys() < held.keys()
    )
    assert not [file for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    kept = AutoModel.from_pretrained(folder).state_dict()
    split = sum(".attn.qkv." in key for key in held)
    assert len(kept) == len(held) - len(record["dropped"]) + 2 * split, "each of the others is there once"


def test_pipelines_take_the_folder(folders, clips, given):
    found = pipeline("zero-shot-audio-classification", model=str(folders["2023", False]))(
        str(clips["short"][0]), candidate_labels=given.TEXTS
    )
    assert {one["label"] for one in found} == set(given.TEXTS)


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.fixture
def state(checkpoints):
    return read_checkpoint(checkpoints["2023"] / "checkpoint.pth")


def _without(key):
    return lambda state: state.pop(key)


def _other_filters(state):
    key = "audio_encoder.base.htsat.logmel_extractor.melW"
    state[key] = state[key].roll(1, 1)


def _other_transform(state):
    state["audio_encoder.base.htsat.spectrogram_extractor.stft.conv_real.weight"] *= 2


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda state: state.update({"audio_encoder.base.htsat.new": torch.ones(1)}), "1 keys .*base.htsat.new"),
        (_without("audio_encoder.projection.linear2.weight"), "missing: audio_projection.linear2.weight"),
        (_without("audio_encoder.base.htsat.norm.weight"), "no 'audio_encoder.base.htsat.norm.weight'"),
        (_without("logit_scale"), "no 'logit_scale'"),
        (_other_filters, "mel filters .* none of those known: 50 to 14000 Hz at 32000 Hz"),
        (_other_transform, "another front end"),
        (lambda state: [state.pop(key) for key in list(state) if "wte" in key], "is not version '2023'"),
    ],
)
def test_a_checkpoint_that_is_not_what_it_says_is_refused(spoil, said, state, checkpoints, tmp_path):
    spoil(state)
    torch.save({"model": state}, tmp_path / "spoiled.pth")
    with pytest.raises(ConversionError, match=said):
        convert(tmp_path / "spoiled.pth", tmp_path / "out", version="2023", tokenizer=checkpoints["2023"])
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_size_is_refused(checkpoints, tmp_path):
    with pytest.raises(ConversionError, match="pass tokenizer= that it was trained with"):
        convert(checkpoints["2022"] / "checkpoint.pth", tmp_path / "out", tokenizer=checkpoints["2023"])


def test_filters_of_another_range_are_found_among_the_weights(state, checkpoints, tmp_path):
    from hf_slap import SlapFeatureExtractor

    wanted = SlapFeatureExtractor(sampling_rate=44_100, hop_length=320, win_length=1024, n_fft=1024)
    state["audio_encoder.base.htsat.logmel_extractor.melW"] = torch.from_numpy(wanted.mel_filters).float()
    torch.save({"model": state}, tmp_path / "other.pth")
    convert(tmp_path / "other.pth", tmp_path / "out", tokenizer=checkpoints["2023"])
    extractor = AutoProcessor.from_pretrained(tmp_path / "out").feature_extractor
    assert (extractor.mel_rate, extractor.mel_high_hz) == (None, 8_000.0)


class _RunsCode:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_with_code_is_refused_unopened(state, tmp_path, capsys):
    torch.save({"model": {**state, "args": _RunsCode()}}, tmp_path / "bad.pth")
    with pytest.raises(ConversionError, match="could run code"):
        convert(tmp_path / "bad.pth", tmp_path / "out")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_RunsCode()))
    with pytest.raises(ConversionError, match="could run code"):
        convert(tmp_path / "plain.pth", tmp_path / "out")
    assert "never" not in capsys.readouterr().out


def test_numbers_of_numpy_beside_the_weights_do_no_harm(tmp_path):
    weights = {"module.one": torch.ones(2)}
    torch.save({"epoch": 3, "best": np.float64(0.5), "state_dict": weights}, tmp_path / "laion.pt")
    assert list(read_checkpoint(tmp_path / "laion.pt")) == ["one"]


def test_damaged_and_foreign_files_are_refused(checkpoints, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere.pth'; give the checkpoint"):
        convert(tmp_path / "nowhere.pth", tmp_path / "out")
    whole = (checkpoints["2022"] / "checkpoint.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConversionError, match="damaged"):
        read_checkpoint(tmp_path / "cut.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConversionError, match="no table of tensors"):
        read_checkpoint(tmp_path / "list.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(ConversionError, match="no converter knows this checkpoint"):
        convert(tmp_path / "other.pth", tmp_path / "out")


def test_the_command_converts_and_refuses_a_folder_that_is_not_empty(checkpoints, tmp_path, capsys):
    source, folder = checkpoints["2022"], tmp_path / "clap"
    words = ["convert", str(source / "checkpoint.pth"), str(folder), "--tokenizer", str(source)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "converted" in said.out and "fc_audioset" in said.err
    assert SlapModel.from_pretrained(folder).config.audio_config.model_type == "slap_cnn14"
    assert main(words) == 2
    assert "not empty" in capsys.readouterr().err
