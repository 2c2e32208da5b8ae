"""HTSAT, CLAP 2023's audio tower, in a whole model with GPT-2: small, on real clips."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

import hf_slap
from hf_slap import (
    SlapAudioModelWithProjection,
    SlapConfig,
    SlapFeatureExtractor,
    SlapForAudioClassification,
    SlapForPreTraining,
    SlapHtsatConfig,
    SlapHtsatModel,
    SlapModel,
    SlapProcessor,
)

# 2 strips of 64 mels, three stages; 1.7 s are 235 of the 256 frames of an image
SMALL = {
    "spec_size": 128, "patch_embeds_hidden_size": 6, "hidden_size": 24, "depths": [2, 1, 1],
    "num_attention_heads": [2, 3, 4], "attention_window": 4, "max_audio_seconds": 1.7, "initializer_range": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny_processor) -> SlapConfig:
    tokenizer = tiny_processor.tokenizer
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    heads = {"num_attention_heads": 2, "hidden_size": 28, "num_hidden_layers": 1, "intermediate_size": 41}
    return SlapConfig(
        audio_config={"model_type": "slap_htsat", **SMALL},
        text_config={
            **{"model_type": "gpt2", "n_embd": 20, "n_layer": 2, "n_head": 2, "n_positions": 23},
            **{"vocab_size": len(tokenizer), **ids},
        },
        decoder_config={**heads, "vocab_size": len(tokenizer), "max_position_embeddings": 19},
        text_pooling="last",
        projection="residual_mlp",
        projection_dim=11,
        **ids,
    )


@pytest.fixture(scope="module")
def processor(config, tiny_processor) -> SlapProcessor:
    return SlapProcessor(SlapFeatureExtractor.for_audio_config(config.audio_config), tiny_processor.tokenizer)


@pytest.fixture(scope="module")
def folder(config, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("htsat")
    torch.manual_seed(0)
    hf_slap.save_folder(folder, SlapForPreTraining(config).eval(), processor)
    return folder


@pytest.fixture(scope="module")
def inputs(processor, real_clips):
    """Clips of 0.3 to 2 s: some are filled up, some take two windows."""
    return processor.feature_extractor(real_clips, return_tensors="pt")


def test_a_window_is_what_transformers_own_model_makes_of_it():
    torch.manual_seed(0)
    model, window = SlapHtsatModel(SlapHtsatConfig(**SMALL)).eval(), torch.randn(1, 235, 64)
    with torch.no_grad():
        ours, theirs = model(window), model.htsat(window[:, None])
    assert torch.equal(ours.pooler_output, theirs.pooler_output)
    assert torch.allclose(ours.last_hidden_state.mean(1), theirs.pooler_output, atol=1e-6)
    # 4 rows of 8 moments each: all rows of a moment, then the next
    assert ours.last_hidden_state.shape == (1, 64, 24) and model.config.patch_rows == 4
    assert torch.equal(ours.last_hidden_state[0, :4], theirs.last_hidden_state[0, :, :, 0].T)
    assert (ours.token_seconds[0, :4] == ours.token_seconds[0, 0]).all()


def test_the_defaults_are_clap_2023():
    with torch.device("meta"):
        model = SlapHtsatModel(SlapHtsatConfig())
    assert model.config.window_frames == 965 and model.config.patch_rows == 2
    assert sum(p.numel() for p in model.parameters()) == 27_534_488


def test_a_clip_alone_gets_what_it_gets_in_a_batch(folder, inputs):
    model = SlapModel.from_pretrained(folder).eval()
    frames = inputs["input_features_mask"].sum(1).tolist()
    assert min(frames) == 235 < max(frames)
    with torch.no_grad():
        together = model.get_audio_features(**inputs)
        for number, length in enumerate(frames):
            alone = model.get_audio_features(inputs["input_features"][number : number + 1, :length])
            tokens = alone.last_hidden_state.shape[1]
            assert torch.allclose(alone.pooler_output[0], together.pooler_output[number], atol=1e-5)
            dense = together.last_hidden_state[number, :tokens]
            assert torch.allclose(alone.last_hidden_state[0], dense, atol=1e-4)
            assert int(together.attention_mask[number].sum()) == tokens


def test_every_class_loads_from_one_folder(folder, inputs):
    whole = AutoModel.from_pretrained(folder).eval()
    assert type(whole) is SlapModel and type(whole.audio_model) is SlapHtsatModel
    with torch.no_grad():
        embeds = whole.get_audio_features(**inputs).pooler_output
        side = SlapAudioModelWithProjection.from_pretrained(folder).eval()
        assert torch.equal(side.get_audio_features(**inputs).pooler_output, embeds)
        tower = SlapHtsatModel.from_pretrained(folder).eval()
        assert torch.equal(tower(**inputs).pooler_output, whole.audio_model(**inputs).pooler_output)
        classifier = SlapForAudioClassification.from_pretrained(folder, num_labels=3).eval()
        assert classifier(**inputs).logits.shape == (7, 3)


@pytest.fixture
def fresh_modules(tmp_path, monkeypatch):
    """An empty place for code that lies beside weights; afterwards all is as it was."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    elsewhere = [place for place in sys.path if not (Path(place) / "transformers_modules").exists()]
    monkeypatch.setattr("sys.path", elsewhere)  # transformers puts the place at its end
    before = dict(sys.modules)
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in before.items() if name.startswith("transformers_modules")})


@pytest.mark.usefixtures("fresh_modules")
def test_the_code_beside_the_weights_computes_the_same(folder, inputs):
    theirs = get_class_from_dynamic_module("modeling_slap.SlapModel", str(folder)).from_pretrained(folder).eval()
    for part in (theirs, theirs.audio_model, theirs.config.audio_config, theirs.audio_projection):
        assert type(part).__module__.startswith("transformers_modules.")
    ours = SlapModel.from_pretrained(folder).eval()
    with torch.no_grad():
        embeds = [model.get_audio_features(**inputs).pooler_output for model in (ours, theirs)]
    assert torch.equal(*embeds)


def test_pipelines_and_embed_and_the_listener_answer(folder, real_clips, inputs):
    captioner = pipeline("audio-captioning", model=str(folder))
    assert isinstance(captioner(real_clips[0], max_new_tokens=5)[0]["generated_text"], str)
    classify = pipeline("zero-shot-audio-classification", model=str(folder))
    waveform = classify.feature_extractor.load(real_clips[0])
    answers = classify(waveform, candidate_labels=["rain", "a dog"])
    assert sum(answer["score"] for answer in answers) == pytest.approx(1)
    with torch.no_grad():
        by_hand = SlapModel.from_pretrained(folder).eval().get_audio_features(**inputs).pooler_output
    found = hf_slap.embed(real_clips, folder, progress=False).dataset.with_format("torch")["embedding"][:]
    assert torch.allclose(found, by_hand, atol=1e-5)
    listener = hf_slap.Listener(str(folder))
    [first] = listener.classify([real_clips[0]], ["rain", "a dog"])
    assert len(first) == 2


def test_it_is_not_trained_by_masked_prediction(config):
    model = SlapForPreTraining(config)
    assert model.prototype_head is None
    with pytest.raises(ValueError, match="masked_weight=0"):
        model(torch.zeros(1, 235, 64), patch_mask=torch.zeros(235, dtype=torch.bool))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 25}, "doubled 2 times"),
        ({"num_attention_heads": [2, 2]}, "differ in length"),
        ({"spec_size": 100}, "must be a multiple"),
        ({"max_audio_seconds": 1.9}, "holds 256"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(Exception, match=message):
        SlapHtsatConfig(**{**SMALL, **changes})
