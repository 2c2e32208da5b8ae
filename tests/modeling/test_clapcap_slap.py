"""The captioner that reads a prefix: what its mapper computes, what it learns, what it writes, and how it is saved."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel, AutoModelForSpeechSeq2Seq, GPT2Config, GPT2LMHeadModel, pipeline

import hf_slap
from hf_slap.modeling.clapcap_slap import SlapForPrefixCaptioning, SlapPrefixConfig, SlapPrefixLayer, search_by_mean
from hf_slap.starting_points import freeze, load_start

END, BLANK = 5, 7


@pytest.fixture(scope="module")
def writer_config(tiny_processor) -> GPT2Config:
    special = {
        name: getattr(tiny_processor.tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")
    }
    sizes = {"n_embd": 20, "n_layer": 2, "n_head": 2, "n_positions": 31, "initializer_range": 0.6}
    return GPT2Config(vocab_size=len(tiny_processor.tokenizer), **sizes, **special)


@pytest.fixture(scope="module")
def model(tiny_folder, writer_config) -> SlapForPrefixCaptioning:
    """Its weights are large enough for captions to depend on the sound. Do not change it: it is shared."""
    torch.manual_seed(3)
    sizes = {"prefix_tokens": 7, "projected_tokens": 5, "mapper_layers": 3, "mapper_heads": 2, "max_caption_tokens": 13}
    made = SlapForPrefixCaptioning.from_audio_language_pretrained(
        tiny_folder, writer_config, **sizes, initializer_range=0.5, compat_end_token_id=BLANK
    )
    return made.eval()


@pytest.fixture(scope="module")
def inputs(real_clips) -> dict:
    return hf_slap.SlapFeatureExtractor()(real_clips[:3], return_tensors="pt")


def test_the_defaults_are_those_of_the_published_captioner():
    config = SlapPrefixConfig()
    mapper = (config.prefix_tokens, config.projected_tokens, config.mapper_layers, config.mapper_heads)
    assert (*mapper, config.mapper_mlp_ratio, config.max_caption_tokens) == (40, 40, 8, 8, 2, 67)
    assert config.text_config.model_type == "gpt2" and config.text_config.hidden_size == 768
    assert config.get_text_config(decoder=True) is config.text_config and config.decoder_config is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"mapper_heads": 7}, "mapper_heads=7 must divide the language model's 768"),
        ({"max_caption_tokens": 1000}, "max_caption_tokens=1000 are more than the 1024 positions"),
        ({"prefix": 3}, r"unknown keys \['prefix'\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(keywords, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        SlapPrefixConfig(**keywords)


def test_a_layer_is_attention_and_mlp_behind_their_norms():
    torch.manual_seed(0)
    layer, hidden = SlapPrefixLayer(6, 2, 2), torch.randn(1, 5, 6)
    normed = layer.norm1(hidden)[0]
    heard = []
    for head in range(2):
        q, k, v = (layer.qkv_proj.weight[6 * part + 3 * head :][:3] @ normed.T for part in range(3))
        heard.append(torch.softmax(q.T @ k / 3**0.5, dim=1) @ v.T)
    middle = hidden[0] + layer.o_proj(torch.cat(heard, 1))
    expected = middle + layer.fc2(layer.fc1(layer.norm2(middle)).clamp(min=0))
    torch.testing.assert_close(layer(hidden)[0], expected)


def test_the_prefix_hears_the_sound_and_is_as_long_as_its_learned_slots(model, inputs):
    embedding = model.get_audio_features(**inputs).pooler_output
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(3))
    prefix = model.mapper(embedding)
    assert prefix.shape == (3, 7, 20)
    assert (prefix[0] - prefix[1]).abs().max() > 1e-3


def test_logits_are_those_of_the_language_model_behind_the_prefix(model, inputs):
    """Token by token, without the mapper's shift and without padding, they are the same."""
    labels = torch.tensor([[11, 12, 13, END], [14, END, -100, -100], [15, 16, END, -100]])
    outputs = model(**inputs, labels=labels)
    assert outputs.logits.shape == (3, 4, len(model.language_model.transformer.wte.weight))
    prefix = model.mapper(model.get_audio_features(**inputs).pooler_output)
    nats = []
    for clip, tokens in enumerate(labels):
        words = model.get_input_embeddings()(tokens[tokens >= 0])
        for place, token in enumerate(tokens[tokens >= 0]):
            so_far = torch.cat([prefix[clip], words[:place]])[None]
            logits = model.language_model(inputs_embeds=so_far).logits[0, -1]
            torch.testing.assert_close(outputs.logits[clip, place], logits, rtol=1e-4, atol=1e-4)
            nats.append(torch.nn.functional.cross_entropy(logits, token))
    torch.testing.assert_close(outputs.loss, torch.stack(nats).mean(), rtol=1e-4, atol=1e-4)


def test_features_in_place_of_sound_say_the_same(model, inputs):
    labels = torch.tensor([[11, 12, END]] * 3)
    heard = model.get_encoder()(**inputs)
    torch.testing.assert_close(
        model(encoder_outputs=heard, labels=labels).logits, model(**inputs, labels=labels).logits
    )
    assert torch.equal(model.generate(encoder_outputs=heard, max_length=5), model.generate(**inputs, max_length=5))


# ------------------------------------------------------------------------------------------------------- writing
def naive_search(model, prefix, end, beams, steps, temperature):
    """Beam search over whole sequences of one clip, without a cache: lists of (tokens, sum of log-probabilities)."""
    words = model.get_input_embeddings()
    kept = [([], 0.0)]
    for _ in range(steps):
        further = []
        for tokens, score in kept:
            if tokens and tokens[-1] == end:
                further.append((tokens, score))
                continue
            so_far = torch.cat([prefix, words(torch.tensor(tokens, dtype=torch.long))])[None]
            scores = (model.language_model(inputs_embeds=so_far).logits[0, -1] / temperature).log_softmax(-1)
            further += [([*tokens, token], score + value) for token, value in enumerate(scores.tolist())]
        kept = sorted(further, key=lambda one: -one[1] / len(one[0]))[:beams]
    return [tokens for tokens, _ in kept]


@pytest.mark.parametrize("temperature", [1.0, 2.3])
def test_the_search_by_mean_finds_what_a_naive_one_finds(model, inputs, temperature):
    prefix = model.mapper(model.get_audio_features(**inputs).pooler_output)
    endless = search_by_mean(model.language_model, prefix, -1, 4, 9, temperature)
    end = endless[1, 0, 6].item()  # a token that comes, so that some captions end before others
    found = search_by_mean(model.language_model, prefix, end, 4, 9, temperature, pad=-1)
    lengths = set()
    for clip in range(3):
        expected = naive_search(model, prefix[clip], end, 4, 9, temperature)
        beams = [[token for token in beam if token >= 0] for beam in found[clip].tolist()]
        assert beams == expected
        lengths |= {len(beam) for beam in beams}
    assert min(lengths) < 9


def test_captions_do_not_depend_on_batch_mates(model, inputs):
    for settings in ({}, {"num_beams": 3}, {"compat": True}):
        together = model.generate(**inputs, **settings)
        alone = model.generate(
            inputs["input_features"][1:2], input_features_mask=inputs["input_features_mask"][1:2], **settings
        )
        shared = min(together.shape[1], alone.shape[1])
        assert torch.equal(together[1, :shared], alone[0, :shared])


def test_generate_ends_at_the_end_token_and_compat_at_the_blank(model, inputs, monkeypatch):
    right = model.generate(**inputs)
    assert right.shape[1] <= 13
    monkeypatch.setattr(model.config, "compat", True)
    by_config = model.generate(**inputs)
    assert torch.equal(by_config, model.generate(**inputs, compat=True)) and not torch.equal(by_config[:, :1], right)
    for row in by_config.tolist():
        if BLANK in row:
            assert set(row[row.index(BLANK) + 1 :]) <= {model.config.pad_token_id}


def test_lengths_and_keywords_are_checked(model, inputs):
    assert model.generate(**inputs, max_length=3).shape == model.generate(**inputs, max_new_tokens=3).shape == (3, 3)
    assert model.generate(**inputs, compat=True, num_return_sequences=2, max_length=4).shape == (6, 4)
    with pytest.raises(ValueError, match="at most 24 tokens after the prefix, got max_length=25"):
        model.generate(**inputs, max_length=25)
    with pytest.raises(ValueError, match=r"compat=True takes no \['top_k'\]"):
        model.generate(**inputs, compat=True, top_k=3)
    with pytest.raises(ValueError, match="widht"):
        model.generate(**inputs, widht=3)


# -------------------------------------------------------------------------------------------------- saving, learning
def test_a_folder_serves_auto_classes_and_pipelines(model, tiny_processor, real_clips, tmp_path):
    hf_slap.save_folder(tmp_path, model, tiny_processor)
    named = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert named == {
        "AutoConfig": "clapcap_slap.SlapPrefixConfig",
        "AutoModel": "clapcap_slap.SlapForPrefixCaptioning",
        "AutoModelForSpeechSeq2Seq": "clapcap_slap.SlapForPrefixCaptioning",
    }
    assert {"clapcap_slap.py", "modeling_slap.py", "pipeline_slap.py"} <= {path.name for path in tmp_path.iterdir()}
    for auto_class in (AutoModel, AutoModelForSpeechSeq2Seq):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is SlapForPrefixCaptioning and not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    write = pipeline("audio-captioning", model=str(tmp_path))
    inputs = tiny_processor(audio=real_clips[:2], return_tensors="pt")
    texts = tiny_processor.batch_decode(model.generate(**inputs, num_beams=2), skip_special_tokens=True)
    assert [one[0]["generated_text"] for one in write(real_clips[:2], num_beams=2)] == [text.strip() for text in texts]
    embed = pipeline("audio-feature-extraction", model=str(tmp_path))
    expected = model.get_audio_features(**tiny_processor(audio=real_clips[:1], return_tensors="pt")).pooler_output[0]
    assert embed(real_clips[0]) == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_start_takes_both_sides_and_tells_what_is_new(tiny_folder, writer_config, tmp_path):
    writer = GPT2LMHeadModel(writer_config)
    writer.save_pretrained(tmp_path)
    sizes = {"mapper_heads": 2, "max_caption_tokens": 13, "prefix_tokens": 7, "mapper_layers": 1}
    model, rows = load_start(SlapForPrefixCaptioning, str(tiny_folder), language_model=str(tmp_path), **sizes)
    for name, value in writer.state_dict().items():
        assert torch.equal(model.language_model.state_dict()[name], value), name
    tower = hf_slap.SlapAudioModel.from_pretrained(tiny_folder)
    for name, value in tower.state_dict().items():
        assert torch.equal(model.slap.audio_model.state_dict()[name], value), name
    told = {(row.part, row.state): row.source for row in rows}
    assert told["audio_model", "loaded"] == told["decoder", "left out"] == str(tiny_folder)
    assert told["language_model", "loaded"] == str(tmp_path) and told["mapper", "new"] == ""


def test_frozen_parts_keep_their_dropout_off(tiny_folder, writer_config):
    sizes = {"mapper_heads": 2, "max_caption_tokens": 13, "prefix_tokens": 7, "mapper_layers": 1}
    model = SlapForPrefixCaptioning.from_audio_language_pretrained(tiny_folder, writer_config, **sizes).train()
    assert model.slap.training and model.language_model.training
    freeze(model, [r"^slap\.", r"^language_model\."])
    model.train()
    assert model.mapper.training and not model.slap.training and not model.language_model.training
