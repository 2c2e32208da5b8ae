"""SlapConfig is SLAP-base, survives the disk and refuses what it does not know."""

import json
import math

import pytest

from hf_slap.modeling.configuration_slap import SlapAudioConfig, SlapConfig


def test_the_default_is_slap_base():
    config = SlapConfig()
    audio, text, decoder = config.audio_config, config.text_config, config.decoder_config
    assert (audio.hidden_size, audio.num_hidden_layers, audio.num_attention_heads) == (768, 12, 12)
    assert audio.intermediate_size == 3072
    assert audio.layer_types == ["sliding_attention", "sliding_attention", "full_attention"] * 4
    assert (text.model_type, text.num_hidden_layers, text.hidden_size) == ("modernbert", 22, 768)
    assert (decoder.num_hidden_layers, decoder.num_attention_heads, decoder.hidden_size) == (8, 8, 512)
    assert decoder.vocab_size == text.vocab_size and decoder.cross_attention_size == audio.hidden_size
    assert config.logit_scale_init_value == pytest.approx(math.log(1 / 0.07))


def test_a_configuration_survives_the_disk(tmp_path):
    config = SlapConfig(
        audio_config={"num_hidden_layers": 5, "local_window": 10, "local_window_unit": "tokens"},
        text_config={"model_type": "gpt2", "n_layer": 3},
        text_pooling="last",
        projection_dim=37,
    )
    config.save_pretrained(tmp_path)
    assert SlapConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    audio = SlapAudioConfig.from_pretrained(tmp_path)  # the nested part alone
    assert audio.num_hidden_layers == 5 and audio.local_window_unit == "tokens"


def test_a_model_without_captioner_stays_without(tmp_path):
    SlapConfig(decoder_config=None).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["decoder_config"] is None
    assert SlapConfig.from_pretrained(tmp_path).decoder_config is None


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lr": 1}, r"unknown keys \['lr'\] for SlapConfig; known keys are .*'projection_dim'"),
        ({"audio_config": {"hiden_size": 2}}, r"unknown keys \['hiden_size'\] for SlapAudioConfig"),
        ({"decoder_config": {"n_layer": 2}}, r"unknown keys \['n_layer'\] for SlapDecoderConfig"),
        ({"model_type": "bert"}, "configuration of a 'bert' model, not of a 'slap' model"),
        ({"text_pooling": "max"}, "text_pooling='max'; accepted are"),
        ({"contrastive_kind": "hinge"}, "contrastive_kind='hinge'; accepted are"),
        ({"audio_config": {"hidden_size": 100}}, "hidden_size=100 must be a multiple of 4 x num_attention_heads"),
        ({"audio_config": {"local_window": -4}}, "local_window=-4 must be positive"),
        ({"audio_config": {"max_audio_seconds": 0.1}}, "less than one patch"),
        ({"audio_config": {"window_overlap_seconds": 40.0}}, "window_overlap_seconds=40.0 must be less than"),
        ({"audio_config": {"patch_bins": 15}}, "patch_bins=15 must divide num_mel_bins=64"),
        ({"audio_config": {"stem_channels": [8, 0]}}, r"stem_channels=\[8, 0\] must be positive"),
        ({"audio_config": {"local_window_unit": "frames"}}, "local_window_unit='frames'; accepted are"),
        ({"audio_config": {"layer_types": ["full_attention"]}}, "num_hidden_layers"),
        ({"audio_config": {"num_hidden_layers": "12"}}, "expected int, got str"),
        ({"text_config": {"model_type": "nosuch"}}, "'nosuch' of a tower is not known"),
    ],
)
def test_what_is_not_known_is_refused(keywords, message):
    with pytest.raises(Exception, match=message):
        SlapConfig(**keywords)
