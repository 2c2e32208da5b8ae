"""The model: packed = padded = alone, one folder for every head, captions, and what it refuses."""

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

from hf_slap.modeling.attention_slap import PackedLayout
from hf_slap.modeling.configuration_slap import SlapAudioConfig, SlapConfig
from hf_slap.modeling.feature_extraction_slap import SlapFeatureExtractor
from hf_slap.modeling.modeling_slap import (
    SlapAudioModel,
    SlapAudioModelWithProjection,
    SlapForAudioCaptioning,
    SlapForAudioClassification,
    SlapForPreTraining,
    SlapModel,
    audio_windows,
    pool_windows,
    rotary_angles,
    rotate,
    shift_right,
)

FRAMES = [151, 47, 90, 47]  # unequal, and no multiples of a patch
COLUMNS = [9, 2, 5, 2]
AUDIO = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 160,
    "local_window": 4,
}
TEXT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80, "vocab_size": 97}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DECODER = {
    "vocab_size": 97,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 70,
}
PROTOTYPES = {"num_prototypes": 53, "prototype_hidden_size": 61, "prototype_bottleneck_size": 17}


def small_config(audio=(), **changes):
    parts = {"audio_config": {**AUDIO, **dict(audio)}, "text_config": {**TEXT, **SPECIAL}, "decoder_config": DECODER}
    return SlapConfig(**{**parts, "projection_dim": 29, **PROTOTYPES, **SPECIAL, **changes})


def small_model(cls=SlapForPreTraining, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    return cls(small_config(**changes)).to(dtype).eval()


def sounds(dtype=torch.float32):
    torch.manual_seed(1)
    x = torch.randn(len(FRAMES), max(FRAMES), 64, dtype=dtype)
    mask = (torch.arange(max(FRAMES)) < torch.tensor(FRAMES)[:, None]).long()
    return x, mask


def packed(x):
    """The same clips, one after another, cut to whole patches."""
    frames = [16 * n for n in COLUMNS]
    return torch.cat([clip[:n] for clip, n in zip(x, frames, strict=True)]), frames


def captions():
    torch.manual_seed(2)
    ids = torch.randint(3, 97, (len(FRAMES), 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return ids, mask, ids.masked_fill(mask == 0, -100)


def with_gradients(model, embeds):
    (embeds * torch.linspace(-1, 1, embeds.numel()).view_as(embeds)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


# ------------------------------------------------------------------------------------------ same clip, same embedding


@pytest.mark.parametrize("stem", [None, [6, 10, 14]])
@pytest.mark.parametrize("backend", ["eager", "clips", "banded", "padded", "auto"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_packed_padded_and_alone_are_equal_with_their_gradients(backend, dtype, tolerance, stem):
    model = small_model(SlapModel, dtype, audio={"attention_backend": backend, "stem_channels": stem})
    x, mask = sounds(dtype)
    together, frames = packed(x)

    def embed(*args, **kwargs):
        return model.get_audio_features(*args, **kwargs).pooler_output

    from_padded = embed(x, mask)
    from_packed = embed(together, clip_frames=frames)
    alone = torch.cat([embed(x[i : i + 1, :n]) for i, n in enumerate(FRAMES)])
    for other in (from_packed, alone):
        torch.testing.assert_close(other, from_padded, atol=tolerance, rtol=0)
    reference, *others = (with_gradients(model, e) for e in (from_padded, from_packed, alone))
    for other in others:
        for name, gradient in reference.items():
            torch.testing.assert_close(
                other[name], gradient, atol=10 * tolerance * max(1, gradient.abs().max()), rtol=0
            )


def test_what_lies_in_the_padding_does_not_matter():
    model, (x, mask) = small_model(SlapModel), sounds()
    loud = torch.where(mask[..., None].bool(), x, 1e4)
    with torch.no_grad():
        expected, found = (model.get_audio_features(y, mask).pooler_output for y in (x, loud))
    assert torch.equal(expected, found)


def test_permuting_a_batch_permutes_its_embeddings():
    model, (x, mask), order = small_model(SlapModel), sounds(), [2, 0, 3, 1]
    with torch.no_grad():
        straight, shuffled = (model.get_audio_features(x[o], mask[o]).pooler_output for o in ([0, 1, 2, 3], order))
    torch.testing.assert_close(shuffled, straight[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_attention_implementations_give_equal_results(implementation, tmp_path):
    small_model().save_pretrained(tmp_path)
    (x, mask), (ids, text_mask, labels) = sounds(), captions()
    inputs = {"input_ids": ids, "attention_mask": text_mask, "labels": labels}
    outputs = []
    for name in ("sdpa", implementation):
        model = SlapForPreTraining.from_pretrained(tmp_path, attn_implementation=name).eval()
        # transformers compiles FlexAttention for the text tower, which takes minutes on CPU and changes nothing here
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            outputs.append(model(x, mask, **inputs))
    for key in ("audio_embeds", "text_embeds", "caption_logits"):
        torch.testing.assert_close(outputs[1][key], outputs[0][key], atol=1e-5, rtol=0)


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = small_model().train()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        (x, mask), (ids, text_mask, labels) = sounds(), captions()
        out = model(x, mask, input_ids=ids, attention_mask=text_mask, labels=labels)
        gradients.append(with_gradients(model, out.caption_logits) | with_gradients_of(model, x, mask))
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[1][name], gradients[0][name], atol=1e-6, rtol=1e-5)


def with_gradients_of(model, x, mask):
    return with_gradients(model, model.slap.get_audio_features(x, mask).pooler_output)


# ------------------------------------------------------------------------------------------ the architecture


def test_slap_base_has_the_parameters_of_the_table():
    with torch.device("meta"):
        model = SlapForPreTraining(SlapConfig())

    def millions(module):
        return sum(p.numel() for p in module.parameters()) / 1e6

    audio = model.slap.audio_model
    assert millions(audio) - millions(audio.pooler) == pytest.approx(113.5, abs=0.1)
    assert millions(audio.pooler) == pytest.approx(7.1, abs=0.1)
    assert millions(model.slap.text_model) == pytest.approx(149, abs=1)
    assert millions(model.decoder) == pytest.approx(36 + 26, abs=1)
    assert millions(model.prototype_head) == pytest.approx(23.1, abs=0.1)
    assert not any(name.endswith("bias") for name, _ in audio.named_parameters())


@pytest.mark.parametrize(("seconds", "tokens"), [(1, 24), (2, 48), (5, 124), (7, 172), (10, 248), (20, 500), (30, 748)])
def test_token_counts_of_the_table(seconds, tokens):
    frames = 1 + seconds * 16_000 // 160  # centred frames
    model = small_model(SlapModel).audio_model
    _, lengths = model.patchify(torch.zeros(1, frames, 64), None, None)
    assert lengths == [tokens]


def test_patches_hold_the_frames_and_bins_they_claim():
    model = small_model(SlapModel).audio_model
    x = torch.arange(32 * 64.0).view(1, 32, 64)  # value = 64 * frame + bin
    patches, lengths = model.patchify(x, None, None)
    assert lengths == [8] and patches.shape == (8, 256)
    column, row = 1, 2  # time-major: token = 4 * column + row
    expected = x[0, 16 * column : 16 * column + 16, 16 * row : 16 * row + 16].flatten()
    assert torch.equal(patches[4 * column + row], expected)


def test_convolutions_hear_a_patch_as_a_picture_of_frames_and_bins():
    """Against torch's own convolution of the spectrogram of one patch, frames down and bins across."""
    model = small_model(SlapModel, audio={"stem_channels": [6, 10], "patch_frames": 8, "patch_bins": 64}).audio_model
    x = torch.randn(8, 64)
    first, second = model.patch_stem.layers
    expected = x[None, None]
    for layer in (first, second):
        found = torch.nn.functional.conv2d(expected, layer.convolution.weight, layer.convolution.bias, 2, 1)
        size = found.square().mean(1, keepdim=True).add(1e-6).sqrt()
        expected = torch.nn.functional.gelu(found / size * layer.norm.weight[:, None, None])
    assert expected.shape == (1, 10, 2, 16) and model.patch_embedding.in_features == 10 * 2 * 16
    patches, _ = model.patchify(x, None, [8])
    torch.testing.assert_close(model.patch_stem(patches), expected.permute(0, 2, 3, 1).reshape(1, -1))


def test_dense_features_know_their_time():
    model, (x, mask) = small_model(SlapModel).audio_model, sounds()
    with torch.no_grad():
        out = model(x, mask)
    assert out.last_hidden_state.shape == (4, 36, 96)
    assert out.attention_mask.sum(1).tolist() == [4 * n for n in COLUMNS]
    assert out.last_hidden_state[~out.attention_mask].abs().max() == 0
    # the patch of column c covers frames 16 c to 16 c + 15, whose middles lie 10 ms apart
    assert out.token_seconds[0, [0, 3, 4, 35]].tolist() == pytest.approx([0.075, 0.075, 0.235, 1.355])


def test_rotary_scores_depend_on_the_distance_in_time_and_in_frequency_alone():
    config = SlapAudioConfig(**AUDIO)
    layout = PackedLayout([40], rows=4)
    cos, sin = rotary_angles(layout, config, torch.float32)
    torch.manual_seed(3)
    q, k = (torch.randn(1, 1, 32).expand(40, 1, 32) for _ in range(2))
    q, k = rotate(q, cos, sin)[:, 0], rotate(k, cos, sin)[:, 0]

    def score(i, j):  # tokens given as (column, row)
        return (q[4 * i[0] + i[1]] @ k[4 * j[0] + j[1]]).item()

    assert score((1, 0), (4, 2)) == pytest.approx(score((5, 1), (8, 3)), abs=1e-4)
    assert score((1, 0), (4, 2)) != pytest.approx(score((1, 0), (5, 2)), abs=1e-2)
    assert score((1, 0), (4, 2)) != pytest.approx(score((1, 0), (4, 3)), abs=1e-2)


@pytest.mark.parametrize("stem", [None, [6, 10]])
def test_a_masked_token_is_replaced_before_anything_is_computed(stem):
    model = small_model(SlapModel, audio={"stem_channels": stem}).audio_model
    x, frames = packed(sounds()[0])
    hidden_patch = torch.zeros(sum(frames) // 4, dtype=torch.bool)
    hidden_patch[5] = True  # column 1, row 1 of the first clip
    changed = x.clone()
    changed[16:32, 16:32] += 7.0
    with torch.no_grad():
        clean, masked, masked_changed = (
            model(y, clip_frames=frames, patch_mask=m).last_hidden_state
            for y, m in ((x, None), (x, hidden_patch), (changed, hidden_patch))
        )
    assert torch.equal(masked, masked_changed)
    assert not torch.allclose(clean[0], masked[0]) and torch.allclose(clean[1:], masked[1:], atol=1e-6)


@pytest.mark.parametrize("long_audio", ["windows", "whole"])
def test_one_patch_and_ten_minutes_both_work(long_audio):
    model = small_model(SlapModel, audio={"long_audio": long_audio})
    with torch.inference_mode():
        assert model.get_audio_features(torch.randn(1, 16, 64)).last_hidden_state.shape == (1, 4, 96)
        out = model.get_audio_features(torch.randn(1, 60_001, 64))
    assert out.last_hidden_state.shape == (1, 15_000, 96)
    assert out.pooler_output.isfinite().all()


def test_windows_tile_a_long_clip_and_overlap():
    config = SlapAudioConfig(max_audio_seconds=1.6, window_overlap_seconds=0.4)  # 10 columns, overlap 2
    assert audio_windows(10, config) == [(0, 10, 0, 10)]
    assert audio_windows(11, config) == [(0, 10, 0, 5), (1, 11, 5, 11)]
    assert audio_windows(25, config) == [(0, 10, 0, 9), (8, 18, 9, 16), (15, 25, 16, 25)]
    for columns in range(1, 97):
        windows = audio_windows(columns, config)
        owned = [c for *_, start, end in windows for c in range(start, end)]
        assert owned == list(range(columns))
        assert all(start <= own and end >= own_end for start, end, own, own_end in windows)


def test_all_windows_but_the_last_two_stay_when_the_clip_goes_on():
    config = SlapAudioConfig(max_audio_seconds=1.6, window_overlap_seconds=0.4)
    final = audio_windows(97, config)
    for columns in range(1, 97):
        certain = audio_windows(columns, config)[:-2]
        assert certain == final[: len(certain)]


def test_pooled_windows_weigh_what_they_own():
    pooled = torch.tensor([[1.0, 0.0], [5.0, 8.0], [7.0, 7.0]])
    assert pool_windows(pooled, [3, 1, 2], [0, 0, 1]).tolist() == [[2.0, 2.0], [7.0, 7.0]]


def test_the_audio_side_alone_loads_from_every_folder_with_a_joint_space(tmp_path):
    x, mask = sounds()
    for cls in (SlapModel, SlapForPreTraining):
        model = small_model(cls)
        model.save_pretrained(tmp_path / cls.__name__)
        alone = SlapAudioModelWithProjection.from_pretrained(tmp_path / cls.__name__)
        assert not hasattr(alone, "text_model")
        with torch.no_grad():
            expected = getattr(model, "slap", model).get_audio_features(x, mask).pooler_output
            assert torch.equal(alone(x, mask).pooler_output, expected)


def test_a_long_clip_is_the_weighted_mean_of_its_windows():
    model = small_model(SlapModel, audio={"max_audio_seconds": 1.6, "window_overlap_seconds": 0.4}).audio_model
    x = torch.randn(1, 11 * 16 + 5, 64)
    with torch.no_grad():
        whole = model(x)
        first, second = model(x[:, :160]), model(x[:, 16:176])
    expected = 5 / 11 * first.pooler_output + 6 / 11 * second.pooler_output
    torch.testing.assert_close(whole.pooler_output, expected, atol=1e-6, rtol=0)
    stitched = torch.cat([first.last_hidden_state[:, : 5 * 4], second.last_hidden_state[:, 4 * 4 :]], 1)
    torch.testing.assert_close(whole.last_hidden_state, stitched, atol=1e-6, rtol=0)
    assert whole.token_seconds[0, -1].item() == pytest.approx(1.675)


def test_a_long_clip_keeps_its_embedding_among_short_ones():
    model = small_model(SlapModel, audio={"max_audio_seconds": 0.7})
    x, mask = sounds()
    with torch.no_grad():
        together = model.get_audio_features(x, mask).pooler_output
        alone = torch.cat([model.get_audio_features(x[i : i + 1, :n]).pooler_output for i, n in enumerate(FRAMES)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_a_large_batch_is_encoded_in_parts_without_a_difference(monkeypatch):
    model, (x, mask) = small_model(SlapModel), sounds()
    with torch.no_grad():
        at_once = model.get_audio_features(x, mask).pooler_output
        monkeypatch.setattr("hf_slap.modeling.modeling_slap.INFERENCE_TOKENS", 30)
        in_parts = model.get_audio_features(x, mask).pooler_output
    torch.testing.assert_close(in_parts, at_once, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [-20.0, 1e-3, 20.0], ids=["silence", "mean", "full scale"])
def test_extreme_sounds_stay_finite(dtype, value):
    model = small_model(SlapModel, dtype)
    with torch.no_grad():
        out = model.get_audio_features(torch.full((2, 64, 64), value))
    assert out.last_hidden_state.isfinite().all()
    assert out.pooler_output.float().norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["silence", "full-scale noise", "full-scale square wave"])
def test_silence_and_full_scale_sound_stay_finite_from_the_waveform_on(kind, dtype):
    noise = np.random.default_rng(8).uniform(-1, 1, 16_000).astype(np.float32)
    waveform = {"silence": 0 * noise, "full-scale noise": noise, "full-scale square wave": np.sign(noise)}[kind]
    features = SlapFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        out = small_model(SlapModel, dtype).get_audio_features(**features)
    assert features["input_features"].isfinite().all() and out.last_hidden_state.isfinite().all()
    assert out.pooler_output.float().norm().item() == pytest.approx(1, abs=1e-2)


def test_bfloat16_stays_near_float32():
    x, mask = sounds()
    with torch.no_grad():
        full, half = (
            small_model(SlapModel, d).get_audio_features(x, mask).pooler_output.float()
            for d in (torch.float32, torch.bfloat16)
        )
    assert torch.nn.functional.cosine_similarity(full, half).min() > 0.99


# ------------------------------------------------------------------------------------------ the joint space


def test_forward_compares_every_clip_with_every_text():
    model, (x, mask), (ids, text_mask, _) = small_model(SlapModel), sounds(), captions()
    with torch.no_grad():
        out = model(ids[:3], x, text_mask[:3], mask)
    assert out.logits_per_audio.shape == (4, 3) and torch.equal(out.logits_per_text, out.logits_per_audio.T)
    torch.testing.assert_close(out.audio_embeds.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(out.logits_per_audio, model.scale * out.audio_embeds @ out.text_embeds.T)
    assert isinstance(model(ids, x, text_mask, mask, return_loss=True, return_dict=False), tuple)


def test_the_multiplier_is_clamped():
    model = small_model(SlapModel)
    with torch.no_grad():
        model.logit_scale.fill_(50.0)
    assert model.scale.item() == pytest.approx(100.0)
    model.clamp_logit_scale()
    model.scale.backward()
    assert model.scale.item() == pytest.approx(100.0, rel=1e-3) and model.logit_scale.grad.abs() > 0


@pytest.mark.parametrize("pooling", ["map", "mean", "last", "cls"])
def test_padding_text_does_not_change_it(pooling):
    model, (ids, mask, _) = small_model(SlapModel, text_pooling=pooling), captions()
    with torch.no_grad():
        together = model.get_text_features(ids, mask).pooler_output[1]
        alone = model.get_text_features(ids[1:2, :4]).pooler_output[0]
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("text", "pooling"),
    [
        ({"model_type": "bert", "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 97}, "pooler"),
        ({"model_type": "roberta", "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 97}, "map"),
        ({"model_type": "gpt2", "n_embd": 48, "n_layer": 1, "n_head": 3, "vocab_size": 97}, "last"),
    ],
    ids=["bert", "roberta", "gpt2"],
)  # fmt: skip
def test_other_text_towers_plug_in_and_survive_the_disk(text, pooling, tmp_path):
    model, (ids, mask, _) = small_model(SlapModel, text_config=text, text_pooling=pooling), captions()
    model.save_pretrained(tmp_path)
    again = SlapModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected, found = (m.get_text_features(ids, mask).pooler_output for m in (model, again))
    assert torch.equal(expected, found)


def test_every_weight_of_a_bert_tower_gets_a_gradient_and_half_precision_towers_load(tmp_path):
    text = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3, "vocab_size": 97}
    transformers.BertModel(transformers.BertConfig(**text)).bfloat16().save_pretrained(tmp_path)
    model = SlapModel.from_audio_text_pretrained(
        text=str(tmp_path), audio_config=AUDIO, decoder_config=None, projection_dim=31
    )
    (x, mask), (ids, text_mask, _) = sounds(), captions()
    model(ids, x, text_mask, mask, return_loss=True).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == ["audio_model.mask_token"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_under_autocast_the_residual_stream_and_the_embeddings_stay_float32():
    model, (x, mask), seen = small_model(SlapModel), sounds(), []
    for layer in model.audio_model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        embeds = model.get_audio_features(x, mask).pooler_output
    assert set(seen) == {torch.float32} and embeds.dtype == torch.float32
    with torch.no_grad():
        exact = model.get_audio_features(x, mask).pooler_output
    assert torch.nn.functional.cosine_similarity(embeds, exact).min() > 0.999


def test_towers_come_from_pretrained_folders(tmp_path):
    trained = small_model()
    trained.slap.text_model.save_pretrained(tmp_path / "text")
    trained.save_pretrained(tmp_path / "slap")
    model = SlapForPreTraining.from_audio_text_pretrained(
        audio=str(tmp_path / "slap"),
        text=str(tmp_path / "text"),
        decoder_config=DECODER,
        projection_dim=31,
        **PROTOTYPES,
    )
    assert model.config.projection_dim == 31 and model.config.text_config.vocab_size == 97
    for name in ("audio_model", "text_model"):
        expected, found = (getattr(m.slap, name).state_dict() for m in (trained, model))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    model.save_pretrained(tmp_path / "out")
    assert str(tmp_path) not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("texts", [2, 5, 23])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_frozen_text_tower_has_no_dropout_and_reads_texts_of_one_length_together(texts, padding_side):
    torch.manual_seed(3)
    model = small_model(text_config={**TEXT, **SPECIAL, "hidden_dropout_prob": 0.5}, dtype=torch.float64).train()
    x, frames = packed(sounds(torch.float64)[0])
    x, frames = x.repeat(8, 1)[: 48 * texts], [48] * texts
    ids, lengths = torch.randint(3, 97, (texts, 19)), torch.randint(1, 19, (texts, 1))
    place = torch.arange(19) if padding_side == "right" else torch.arange(18, -1, -1)
    mask = (place < lengths).long()
    assert model.slap.text_model.training
    model.slap.text_model.requires_grad_(False)
    model.train()
    assert model.slap.audio_model.training and not model.slap.text_model.training

    read = []
    handle = model.slap.text_model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = model(input_features=x, clip_frames=frames, input_ids=ids, attention_mask=mask).text_embeds
    handle.remove()
    expected = model.slap.get_text_features(ids, mask).pooler_output
    assert (found - expected).abs().max() < 1e-12
    assert len(read) == 4 and (texts < 5 or padding_side == "left" or sum(read) < ids.numel())
    (found * torch.randn_like(found)).sum().backward()
    assert model.slap.text_projection.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.slap.text_model.parameters())

    model.slap.text_model.requires_grad_(True)
    assert model.train().slap.text_model.training


# ------------------------------------------------------------------------------------------ one folder for every head


@pytest.mark.parametrize(
    "cls", [SlapForPreTraining, SlapModel, SlapAudioModel, SlapForAudioCaptioning, SlapForAudioClassification]
)
def test_one_folder_serves_every_head(cls, tmp_path):
    trained = small_model()
    trained.save_pretrained(tmp_path)
    model, info = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    ours = model if cls is SlapAudioModel else (model if cls is SlapModel else model.slap).audio_model
    for key, value in trained.slap.audio_model.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key])


def test_an_audio_model_loads_from_the_folder_of_a_slap_model(tmp_path):
    small_model(SlapModel).save_pretrained(tmp_path)
    _, info = SlapAudioModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]


def test_weights_are_safetensors_without_teacher_or_copies(tmp_path):
    small_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert not [name for name in weights if "teacher" in name or name == "lm_head.weight"]  # the latter is tied
    assert not list(tmp_path.glob("*.bin")) + list(tmp_path.glob("*.pt"))


def test_residual_branches_start_small():
    model = small_model()
    layer, written = model.slap.audio_model.layers[1], model.decoder.layers[1]
    assert layer.self_attn.qkv_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
        assert linear.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.05)  # 3 layers of 2 branches
    for linear in (written.self_attn.o_proj, written.cross_attn.o_proj, written.down_proj):
        assert linear.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)  # 2 layers of 3 branches


@pytest.mark.parametrize("stem", [None, [6, 10]])
def test_every_parameter_is_set_when_it_is_missing_from_the_folder(stem, tmp_path):
    """Models are built on the meta device: a parameter that nobody sets holds whatever memory held."""
    from safetensors.torch import save_file

    small_model(audio={"stem_channels": stem}).save_pretrained(tmp_path)
    save_file({"slap.logit_scale": torch.tensor([1.5])}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = SlapForPreTraining.from_pretrained(tmp_path)
    assert model.slap.logit_scale.item() == 1.5
    for name, p in model.named_parameters():
        assert p.isfinite().all() and p.abs().max() < 10, name
        assert p.abs().max() > 0 or name.endswith("bias"), name


def test_the_folder_of_another_model_is_refused(tmp_path):
    tower = transformers.BertModel(transformers.BertConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2))
    tower.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="configuration of a 'bert' model, not of a 'slap' model"):
        SlapModel.from_pretrained(tmp_path)


def test_classification_learns_single_and_multi_label():
    model, (x, mask) = small_model(SlapForAudioClassification, num_labels=5), sounds()
    single = model(x, mask, labels=torch.tensor([0, 4, 2, 1]))
    multi = model(x, mask, labels=torch.eye(5)[:4])
    assert single.logits.shape == (4, 5)
    torch.testing.assert_close(
        single.loss, torch.nn.functional.cross_entropy(single.logits, torch.tensor([0, 4, 2, 1]))
    )
    assert multi.loss.item() == pytest.approx(
        torch.nn.functional.binary_cross_entropy_with_logits(multi.logits, torch.eye(5)[:4]).item()
    )


# ------------------------------------------------------------------------------------------ captions


@pytest.fixture(scope="module")
def captioner():
    model = small_model(SlapForAudioCaptioning)
    torch.manual_seed(4)
    for p in model.decoder.parameters():  # livelier than a fresh model, so that captions differ
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "cache", [{"use_cache": True}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str
)
def test_captions_of_a_padded_batch_equal_captions_one_by_one(captioner, beams, cache):
    x, mask = sounds()
    settings = {"max_new_tokens": 11, "num_beams": beams, "do_sample": False}
    together = captioner.generate(input_features=x, input_features_mask=mask, **settings, **cache).tolist()
    for i, n in enumerate(FRAMES):
        alone = captioner.generate(input_features=x[i : i + 1, :n], use_cache=True, **settings)[0].tolist()
        assert together[i][: len(alone)] == alone
    assert together[0] != together[1]  # the captioner listens


def test_sampling_follows_its_seed(captioner):
    x, mask = sounds()
    drawn = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        drawn.append(captioner.generate(input_features=x, input_features_mask=mask, do_sample=True, max_new_tokens=9))
    assert torch.equal(drawn[0], drawn[1]) and drawn[0].tolist() != drawn[2].tolist()


def test_teacher_forcing_scores_what_generation_would_choose(captioner):
    x, mask = sounds()
    written = captioner.generate(input_features=x, input_features_mask=mask, max_new_tokens=7, do_sample=False)
    with torch.no_grad():
        logits = captioner(x, mask, labels=written[:, 1:].masked_fill(written[:, 1:] == 0, -100)).logits
    chosen = written[0, 1:]
    assert torch.equal(logits[0].argmax(-1)[: len(chosen)], chosen)


def test_labels_are_shifted_behind_the_start_token():
    labels = torch.tensor([[5, 6, 2], [7, 2, -100]])
    assert shift_right(labels, start=1, pad=0).tolist() == [[1, 5, 6], [1, 7, 2]]


def test_a_caption_longer_than_its_positions_is_refused(captioner):
    x, _ = sounds()
    limit = captioner.config.decoder_config.max_position_embeddings
    with pytest.raises(ValueError, match=f"at most {limit} tokens"):
        captioner(x, decoder_input_ids=torch.ones(4, limit + 1, dtype=torch.long))


# ------------------------------------------------------------------------------------------ captions, all at once


def at_once(model, labels, parallel):
    """Caption scores of `labels`, those of the rows in `parallel` written at once."""
    x, mask = sounds()
    rows = torch.zeros(len(labels), dtype=torch.bool)
    rows[list(parallel)] = True
    with torch.no_grad():
        return model(x[: len(labels)], mask[: len(labels)], labels=labels, caption_parallel=rows).caption_logits


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_caption_written_at_once_sees_no_token_and_the_others_see_those_before(implementation):
    model = small_model(decoder_config={**DECODER, "parallel": True})
    model.decoder.set_attn_implementation(implementation)
    _, _, labels = captions()
    changed = labels.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 97  # the third token of every caption
    before, after = at_once(model, labels, [0, 2]), at_once(model, changed, [0, 2])
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert torch.equal(before[[1, 3], :3], after[[1, 3], :3])
    assert not torch.allclose(before[[1, 3], 3], after[[1, 3], 3], atol=1e-3)


def test_a_caption_written_at_once_looks_both_ways_as_far_as_it_goes():
    model = small_model(decoder_config={**DECODER, "parallel": True})
    _, _, labels = captions()  # that of the second clip has four tokens, the others have seven
    before = at_once(model, labels, [1, 2])
    with torch.no_grad():
        model.decoder.embed_positions.weight[6] += 1.0  # the place of the seventh token
    after = at_once(model, labels, [1, 2])
    assert not torch.allclose(before[2, 0], after[2, 0], atol=1e-3), "the first token knows of the last place"
    assert torch.equal(before[1, :4], after[1, :4]), "a shorter caption does not know how long the longest is"
    assert torch.equal(before[0, :6], after[0, :6]), "token by token, nothing is known of what comes"


def test_captions_written_token_by_token_do_not_notice_the_others():
    model = small_model(decoder_config={**DECODER, "parallel": True})
    (x, mask), (_, _, labels) = sounds(), captions()
    mixed, none = at_once(model, labels, [0, 1]), at_once(model, labels, [])
    with torch.no_grad():
        plain = model(x, mask, labels=labels).caption_logits
    real = labels != -100
    assert torch.allclose(mixed[2:][real[2:]], plain[2:][real[2:]], atol=1e-5)
    assert torch.allclose(none[real], plain[real], atol=1e-5)
    assert torch.allclose(at_once(model, labels[:2, :4], [0, 1])[1], mixed[1, :4], atol=1e-5)  # batch mates
    assert not torch.allclose(mixed[:2, 0], plain[:2, 0], atol=1e-3)


def test_every_parameter_has_a_gradient_whichever_captions_are_written_at_once():
    for parallel in ([True] * 4, [False] * 4):
        model, (x, mask), (_, _, labels) = (
            small_model(decoder_config={**DECODER, "parallel": True}),
            sounds(),
            captions(),
        )
        model(x, mask, labels=labels, caption_parallel=torch.tensor(parallel)).caption_logits.sum().backward()
        assert all(p.grad is not None for p in model.decoder.parameters()), "DDP stops at parameters without"
        assert bool(model.decoder.mask_embedding.grad.any()) == parallel[0]


def test_a_model_that_learned_both_writes_captions_and_another_refuses(tmp_path):
    model, (x, mask), (_, _, labels) = small_model(decoder_config={**DECODER, "parallel": True}), sounds(), captions()
    model.save_pretrained(tmp_path)
    captioner, info = SlapForAudioCaptioning.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(captioner.decoder.mask_embedding, model.decoder.mask_embedding)
    written = captioner.generate(input_features=x, input_features_mask=mask, max_new_tokens=5)
    assert len(written) == 4
    parallel = torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="decoder_config.parallel=True"):
        small_model()(x, mask, labels=labels, caption_parallel=parallel)
    model.decoder.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="set attn_implementation to sdpa"):
        model(x, mask, labels=labels, caption_parallel=parallel)


# ------------------------------------------------------------------------------------------ sigmoid


def test_a_sigmoid_model_has_a_bias_and_its_loss_is_that_of_its_logits():
    model = small_model(SlapModel, contrastive_kind="sigmoid")
    assert model.scale.item() == pytest.approx(10) and model.bias.item() == -10
    with torch.no_grad():
        model.logit_bias.fill_(-1.5)
        (x, mask), (ids, text_mask, _) = sounds(), captions()
        out = model(
            input_ids=ids, attention_mask=text_mask, input_features=x, input_features_mask=mask, return_loss=True
        )
    assert torch.allclose(out.logits_per_audio, 10 * out.audio_embeds @ out.text_embeds.T - 1.5, atol=1e-4)
    sign = 2 * torch.eye(4) - 1
    assert out.loss.item() == pytest.approx(
        -torch.nn.functional.logsigmoid(sign * out.logits_per_audio).sum().item() / 4
    )


def test_a_softmax_folder_has_no_bias_and_a_sigmoid_folder_keeps_its_own(tmp_path):
    small_model().save_pretrained(tmp_path / "softmax")
    config = json.loads((tmp_path / "softmax" / "config.json").read_text())
    for name in ("contrastive_kind", "logit_bias_init_value"):  # as folders were written before there was a choice
        config.pop(name, None)
    config["decoder_config"].pop("parallel", None)
    (tmp_path / "softmax" / "config.json").write_text(json.dumps(config))
    sigmoid = small_model(contrastive_kind="sigmoid")
    torch.nn.init.constant_(sigmoid.slap.logit_bias, -3.0)
    sigmoid.save_pretrained(tmp_path / "sigmoid")
    for kind, bias in (("softmax", None), ("sigmoid", -3.0)):
        model, info = SlapModel.from_pretrained(tmp_path / kind, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert (None if model.bias is None else model.bias.item()) == bias
    for cls in (SlapForAudioCaptioning, SlapAudioModel):
        _, info = cls.from_pretrained(tmp_path / "sigmoid", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]


# ------------------------------------------------------------------------------------------ pretraining


def test_only_the_parts_that_are_asked_for_run():
    model, (x, mask), (ids, text_mask, labels) = small_model(), sounds(), captions()
    patches = torch.arange(4 * sum(COLUMNS)) % 2 == 0
    with torch.no_grad():
        everything = model(x, mask, input_ids=ids, attention_mask=text_mask, labels=labels, patch_mask=patches)
        features, prototypes = everything.prototype_features, everything.prototypes
        assert len(features) == patches.sum() and len(prototypes) == 53 and features.shape[1] == prototypes.shape[1]
        assert all(torch.allclose(x.norm(dim=-1), torch.ones(len(x))) for x in (features, prototypes))
        assert everything.caption_logits.shape == (4, 7, 97)
        assert model(x, mask, patch_mask=patches).keys() == {"logit_scale", "prototype_features", "prototypes"}
        assert model(x, mask, labels=labels).keys() == {"logit_scale", "caption_logits"}


def test_contrastive_reads_the_clean_pass_unless_the_masked_one_is_shared():
    model, (x, mask), (ids, text_mask, _) = small_model(), sounds(), captions()
    patches = torch.arange(4 * sum(COLUMNS)) % 2 == 0
    text = {"input_ids": ids, "attention_mask": text_mask}
    with torch.no_grad():
        clean, beside, shared = (
            model(x, mask, **text, **masked).audio_embeds
            for masked in ({}, {"patch_mask": patches}, {"patch_mask": patches, "shared_masked_pass": True})
        )
    assert torch.equal(clean, beside) and not torch.allclose(clean, shared, atol=1e-3)


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_features": torch.zeros(2, 15, 64)}, "clip 0 has 15 frames; a patch needs 16 frames"),
        ({"input_features": torch.zeros(2, 32, 64), "input_features_mask": torch.tensor([[1] * 32, [1] * 9 + [0] * 23])}, "clip 1 has 9 frames"),
        ({"input_features": torch.zeros(0, 32, 64)}, "the batch has no clip"),
        ({"input_features": torch.zeros(2, 32, 80)}, "must end in 64 mel bins"),
        ({"input_features": torch.zeros(32, 64)}, "need clip_frames"),
        ({"input_features": torch.zeros(1, 2, 32, 64)}, "must be .clips, frames, mel bins."),
        ({"input_features": torch.zeros(48, 64), "clip_frames": [16, 30]}, "multiples of 16 and sum to the frames"),
        ({"input_features": torch.zeros(2, 32, 64), "input_features_mask": torch.ones(2, 31)}, "must be .clips, frames."),
        ({"input_features": torch.zeros(1, 32, 64), "input_features_mask": torch.tensor([[0] * 8 + [1] * 24])}, "right padding"),
        ({"input_features": torch.zeros(1, 32, 64), "patch_mask": torch.zeros(7, dtype=torch.bool)}, "one entry per token, 8"),
        ({"input_features": torch.zeros(1, 32, 64), "output_attentions": True}, "keeps no attention weights"),
    ],
)  # fmt: skip
def test_features_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small_model(SlapModel).audio_model(**arguments)


def test_a_missing_side_is_named():
    model, (x, _), (ids, _, _) = small_model(SlapModel), sounds(), captions()
    with pytest.raises(ValueError, match="input_features is missing"):
        model(ids)
    with pytest.raises(ValueError, match="input_ids is missing"):
        model(input_features=x)


def test_compiled_layers_serve_every_batch_without_compiling_again():
    from torch._dynamo.testing import CompileCounter

    model, plain = small_model(SlapModel), small_model(SlapModel)
    counter, compiled = CompileCounter(), []
    for layer in model.audio_model.layers:
        layer.compile(backend=counter, dynamic=True)
    torch.manual_seed(7)
    for clips in (3, 2, 5, 4, 3):
        frames = [16 * int(n) for n in torch.randint(2, 40, (clips,))]
        x = torch.randn(sum(frames), 64)
        found, expected = (m.get_audio_features(x, clip_frames=frames).pooler_output for m in (model, plain))
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        found.sum().backward()
        compiled.append(counter.frame_count)
    assert compiled[0] > 0 and len(set(compiled)) == 1
