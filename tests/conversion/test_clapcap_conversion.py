"""ClapCap as msclap 1.3.4 runs it: the same tokens from the converted folder, all beams of them.

The classes of msclap were built in a reduced size with random weights; tests/golden/write_clapcap_captions.py wrote what
they say of real sounds, and the same weights are made again here.
"""

import json

import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, pipeline

from hf_slap import SlapForPrefixCaptioning
from hf_slap.conversion import RECORD, ConversionError, convert, read_checkpoint
from hf_slap.conversion.clapcap import convert_clapcap

PREFIX, BLANK = 7, 220


@pytest.fixture(scope="module")
def captions(golden_folder) -> dict:
    return json.loads((golden_folder / "clapcap_captions.json").read_text())


@pytest.fixture(scope="module")
def source(captions, golden, given, tmp_path_factory):
    """A folder with the checkpoint as published, and its tokenizer."""
    fixed = {key.removeprefix("2023 fixed "): value for key, value in golden.items() if key.startswith("2023 fixed ")}
    folder = tmp_path_factory.mktemp("clapcap")
    torch.save({"model": given.make_clapcap_state(captions["shapes"], fixed)}, folder / "checkpoint.pth")
    given.gpt2_like_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert(source / "checkpoint.pth", folder, tokenizer=source)
    return folder


@pytest.fixture(scope="module")
def model(folder) -> SlapForPrefixCaptioning:
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    assert type(model) is SlapForPrefixCaptioning
    return model.eval()


@pytest.fixture(scope="module")
def inputs(folder, clips):
    return AutoProcessor.from_pretrained(folder)(audio=[str(file) for file in clips["short"]], return_tensors="pt")


def beams_of(tokens, pad) -> list[list[int]]:
    return [[token for token in row if token != pad] for row in tokens.tolist()]


@pytest.mark.parametrize("name", ["default", "narrow", "warm"])
def test_every_beam_of_every_clip_is_that_of_the_original_token_by_token(model, inputs, clips, captions, name):
    settings, expected = captions["settings"][name], captions["captions"][name]
    tokens = model.generate(**inputs, compat=True, **settings, num_return_sequences=settings["num_beams"])
    found = beams_of(tokens, model.config.pad_token_id)
    assert found == [beam for file in clips["short"] for beam in expected[file.stem]]
    if name == "default":
        best = [found[place] for place in range(0, len(found), 5)]
        assert len({tuple(one) for one in best}) == len(best), "every sound has its own caption"
        assert any(one[-1] == BLANK and len(one) < 67 for one in best), "some end"


def test_five_beams_and_67_tokens_are_what_it_does_unasked(model, inputs):
    assert torch.equal(model.generate(**inputs), model.generate(**inputs, num_beams=5, max_new_tokens=67))
    short = {"encoder_outputs": model.get_audio_features(**inputs)}
    assert torch.equal(model.generate(**short, compat=True), model.generate(**inputs, compat=True, num_beams=5))


def test_by_default_a_blank_does_not_end_a_caption(model, inputs):
    tokens = model.generate(**inputs)
    after = [row[row.index(BLANK) + 1 :] for row in tokens.tolist() if BLANK in row]
    assert any(set(rest) - {model.config.pad_token_id} for rest in after)


def test_a_folder_made_with_compat_writes_as_the_original(source, clips, captions, tmp_path):
    convert(source / "checkpoint.pth", tmp_path / "model", tokenizer=source, compat=True)
    write = pipeline("audio-captioning", model=str(tmp_path / "model"))
    assert write.feature_extractor.compat and write.model.config.compat
    best = captions["captions"]["default"][clips["short"][0].stem][0]
    text = write.tokenizer.decode(best, skip_special_tokens=True).strip()
    assert write(str(clips["short"][0])) == [{"generated_text": text}]


def test_every_key_is_used_or_has_its_reason(source, folder, model):
    state, record = read_checkpoint(source / "checkpoint.pth"), json.loads((folder / RECORD).read_text())
    assert record["version"] == "clapcap" and record["keys"] == len(state)
    assert all(any(word in key for word in ("htsat.", "attn.bias")) for key in record["dropped"])
    used = sum(state[key].numel() for key in state.keys() - record["dropped"].keys())
    assert used == sum(value.numel() for value in model.state_dict().values())


def test_a_written_exclamation_mark_is_not_padding(model, folder):
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(tokenizer("rain!").input_ids, skip_special_tokens=True) == "rain!"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clap_project.extra": torch.zeros(2)}, "holds 1 keys that this version does not have: clap_project.extra"),
        ({"gpt.lm_head.weight": torch.zeros(3)}, "gpt.lm_head.weight is not gpt.transformer.wte.weight"),
        ({"clap_project.linear.bias": None}, r"has no \['mapper.projection.bias'\]"),
        ({"clap_project.transformer.layers.0.attn.to_keys_values.weight": None}, "no keys and values beside it"),
        ({"gpt.transformer.ln_f.bias": None}, "missing: language_model.transformer.ln_f.bias"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(source, change, message):
    state = read_checkpoint(source / "checkpoint.pth")
    for key, value in change.items():
        state.pop(key, None)
        if value is not None:
            state[key] = value
    with pytest.raises(ConversionError, match=message):
        convert_clapcap(state, str(source))


def test_masks_that_older_checkpoints_hold_are_left_out(source):
    state = read_checkpoint(source / "checkpoint.pth")
    state["gpt.transformer.h.1.attn.masked_bias"] = torch.tensor(-1e4)
    assert "gpt.transformer.h.1.attn.masked_bias" in convert_clapcap(state, str(source)).dropped
