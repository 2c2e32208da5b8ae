"""What is loaded, frozen and slowed down, and how little LoRA trains, by hand-worked numbers."""

import copy

import pytest
import torch

from hf_slap import SlapConfig, SlapForAudioCaptioning, SlapForAudioClassification, SlapForPreTraining, SlapModel
from hf_slap.finetuning import LoraSettings, wrap_lora
from hf_slap.optimization import set_learning_rate
from hf_slap.starting_points import (
    PartRow,
    freeze,
    layer_scales,
    layerwise_groups,
    load_start,
    model_keywords,
    report_lines,
    resumed_model,
    take_start,
    tell_start,
    trainable_share,
)


# ------------------------------------------------------------------------------------------------------- loading
def test_what_was_loaded_left_out_and_new_adds_up(tiny_folder, tiny_config):
    model, rows = load_start(SlapForAudioClassification, str(tiny_folder), id2label={0: "a", 1: "b", 2: "c"})
    weights = {(row.part, row.state): row.weights for row in rows}
    assert weights["classifier", "new"] == 3 * tiny_config.audio_config.hidden_size + 3
    loaded = sum(row.weights for row in rows if row.state != "left out")
    assert loaded == sum(p.numel() for p in model.parameters())
    whole = SlapModel.from_pretrained(tiny_folder)
    assert weights["text_model", "left out"] == sum(p.numel() for p in whole.text_model.parameters())
    assert model.training and model.config.num_labels == 3


def test_a_head_for_other_classes_is_new_and_the_old_one_left_out(tiny_folder, tmp_path):
    two, _ = load_start(SlapForAudioClassification, str(tiny_folder), id2label={0: "a", 1: "b"})
    two.save_pretrained(tmp_path)
    _, same = load_start(SlapForAudioClassification, str(tmp_path), id2label={0: "a", 1: "b"})
    _, other = load_start(SlapForAudioClassification, str(tmp_path), id2label={0: "a", 1: "b", 2: "c"})
    heads = [{row.state for row in rows if row.part == "classifier"} for rows in (same, other)]
    assert heads == [{"loaded"}, {"new", "left out"}]


def test_the_report_says_the_share_that_is_trained():
    layer = torch.nn.Linear(3, 1, bias=True)
    layer.weight.requires_grad_(False)
    lines = report_lines([PartRow("layer", "loaded", "here", 4)], layer)
    assert lines[1].split() == ["layer", "4", "loaded", "here"]
    assert lines[-1].strip() == "trained: 1 of 4 weights, 25.00%"


def test_an_audio_tower_of_another_width_is_refused(tiny_folder, tiny_config, tmp_path):
    config = SlapConfig(**{**tiny_config.to_dict(), "audio_config": {"hidden_size": 36, "num_attention_heads": 3}})
    config.audio_config.num_hidden_layers, config.audio_config.layer_types = 1, ["full_attention"]
    SlapModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is 36 wide, the rest of the model expects 24"):
        load_start(SlapModel, str(tiny_folder), audio_tower=str(tmp_path))


def test_a_model_without_a_text_tower_takes_none(tiny_folder):
    with pytest.raises(ValueError, match="SlapForAudioCaptioning has no text tower"):
        load_start(SlapForAudioCaptioning, str(tiny_folder), text_tower="any")


# ------------------------------------------------------------------------------------------- start of a pretraining
def test_the_configuration_comes_from_where_the_weights_do_and_the_given_goes_before(tiny_folder, tiny_config):
    keywords = model_keywords({"audio_config": {"rope_theta": 7.0}}, audio_from=str(tiny_folder))
    assert set(keywords) == {"audio_config"} and keywords["audio_config"]["rope_theta"] == 7.0
    assert keywords["audio_config"]["hidden_size"] == tiny_config.audio_config.hidden_size
    whole = SlapConfig(**model_keywords({"num_prototypes": 29}, start_from=str(tiny_folder)))
    for name in ("audio_config", "text_config", "decoder_config"):
        assert getattr(whole, name).to_dict() == getattr(tiny_config, name).to_dict()
    assert whole.num_prototypes == 29 and whole.projection_dim == tiny_config.projection_dim
    assert model_keywords({"projection_dim": 5}) == {"projection_dim": 5}


def test_a_pretraining_starts_with_all_weights_or_with_one_tower(tiny_folder, tiny_config, tmp_path):
    theirs = SlapForPreTraining.from_pretrained(tiny_folder).state_dict()
    model = SlapForPreTraining(tiny_config)
    rows = take_start(model, start_from=str(tiny_folder))
    assert {row.state for row in rows} == {"loaded"}
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())

    SlapForPreTraining.from_pretrained(tiny_folder).slap.audio_model.save_pretrained(tmp_path)  # an encoder alone
    for source in (tiny_folder, tmp_path):
        model = SlapForPreTraining(tiny_config)
        rows = take_start(model, audio_from=str(source))
        equal = {name for name, value in model.state_dict().items() if torch.equal(value, theirs[name])}
        tower = {name for name in theirs if name.startswith("slap.audio_model.")}
        assert tower <= equal and "decoder.embed_tokens.weight" not in equal
        states = {row.part: (row.state, row.source) for row in rows}
        assert states["audio_model"] == ("loaded", str(source)) and states["decoder"] == ("new", "")


def test_a_start_of_other_sizes_is_refused_by_name(tiny_folder, tiny_config):
    config = copy.deepcopy(tiny_config)
    config.num_prototypes = 29
    message = (
        r"does not fit the model: prototype_head.prototypes is \(13, 7\) there and \(29, 7\) in this model. Leave sizes"
    )
    with pytest.raises(ValueError, match=message):
        take_start(SlapForPreTraining(config), start_from=str(tiny_folder))
    config.audio_config.num_hidden_layers, config.audio_config.layer_types = 4, ["full_attention"] * 4
    with pytest.raises(ValueError, match=r"audio_model.layers.3.*is missing there; .*; and \d more"):
        take_start(SlapForPreTraining(config), audio_from=str(tiny_folder))


def test_the_report_of_a_run_brings_its_model_back(tiny_config, tmp_path):
    model = SlapForPreTraining(tiny_config)
    tell_start(tmp_path, model, take_start(model), ["scale"])
    assert resumed_model(SlapForPreTraining, tmp_path).config.to_dict() == model.config.to_dict()


def test_each_layer_gets_its_rate(tiny_config):
    model = SlapModel(tiny_config)
    optimizer = torch.optim.AdamW(layerwise_groups(model, 0.1, 0.5))
    set_learning_rate(optimizer, 0.8)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: rate[id(p)] for name, p in model.named_parameters()}
    layers = [of[f"audio_model.layers.{n}.mlp.down_proj.weight"] for n in range(3)]
    assert layers == pytest.approx([0.1, 0.2, 0.4]) and of["logit_scale"] == 0.8


# ------------------------------------------------------------------------------------------------------ freezing
def test_a_pattern_freezes_every_name_in_which_it_is_found(tiny_config):
    model = SlapModel(tiny_config)
    names = freeze(model, [r"audio_model\.layers\.[01]\.", "scale"])
    left = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert set(names) == left and "logit_scale" in left and "audio_model.layers.1.mlp.down_proj.weight" in left
    assert not any("layers.2." in name or name.startswith("text_model") for name in left)


def test_a_pattern_that_is_found_nowhere_is_refused(tiny_config):
    with pytest.raises(ValueError, match=r"named like 'audio_tower'; names begin with \['audio_model.layers'"):
        freeze(SlapModel(tiny_config), ["audio_tower"])


# ---------------------------------------------------------------------------------------------- layer-wise rates
def test_factors_of_a_tower_of_three_and_one_of_two_blocks(tiny_config):
    scales = layer_scales(SlapModel(tiny_config), 0.5)
    first_of = {}
    for name, scale in scales.items():
        words = name.split(".")
        first_of.setdefault(".".join(words[:3] if "layers" in words else words[:2]), scale)
    assert first_of == {
        "logit_scale": 1.0,
        "audio_model.mask_token": 0.0625,
        "audio_model.patch_embedding": 0.0625,
        "audio_model.layers.0": 0.125,
        "audio_model.layers.1": 0.25,
        "audio_model.layers.2": 0.5,
        "audio_model.norm": 1.0,
        "audio_model.pooler": 1.0,
        "text_model.embeddings": 0.125,
        "text_model.layers.0": 0.25,
        "text_model.layers.1": 0.5,
        "text_model.final_norm": 1.0,
        "text_pooler.query": 1.0,
        "text_pooler.q_proj": 1.0,
        "text_pooler.k_proj": 1.0,
        "text_pooler.v_proj": 1.0,
        "text_pooler.o_proj": 1.0,
        "text_pooler.norm": 1.0,
        "text_pooler.up_proj": 1.0,
        "text_pooler.down_proj": 1.0,
        "audio_projection.weight": 1.0,
        "text_projection.weight": 1.0,
    }


def test_groups_hold_every_trained_parameter_once_and_decay_matrices_only(tiny_config):
    model = SlapForAudioCaptioning(tiny_config)
    groups = layerwise_groups(model, 0.3, 0.5)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {group["lr_scale"] for group in groups} == {1.0, 0.5, 0.25, 0.125, 0.0625}
    decayed = [p for group in groups if group["weight_decay"] for p in group["params"]]
    assert decayed and all(p.ndim == 2 for p in decayed)


def test_without_decay_all_learn_alike(tiny_config):
    assert set(layer_scales(SlapModel(tiny_config), 1.0).values()) == {1.0}
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="it must lie above 0 and not above 1"):
            layer_scales(SlapModel(tiny_config), wrong)


# ---------------------------------------------------------------------------------------------------------- LoRA
@pytest.mark.parametrize("model_class", [SlapModel, SlapForAudioCaptioning, SlapForAudioClassification])
def test_lora_trains_less_than_two_percent_of_slap_base(model_class):
    pytest.importorskip("peft")
    with torch.device("meta"):
        model = model_class(SlapConfig(num_labels=50))
    head = ["classifier"] if model_class is SlapForAudioClassification else []
    trained, total = trainable_share(wrap_lora(model, LoraSettings(), "org/slap", new_parts=head))
    assert total > 1e8 and 0.005 < trained / total < 0.02


@pytest.mark.parametrize("text", ["bert", "roberta", "distilbert", "gpt2"])
def test_lora_reaches_other_text_towers(text):
    pytest.importorskip("peft")
    with torch.device("meta"):
        model = SlapModel(SlapConfig(text_config={"model_type": text}, decoder_config=False))
        wrapped = wrap_lora(model, LoraSettings(), "org/slap")
    hit = {
        name.split(".lora_")[0] for name, _ in wrapped.named_parameters() if ".lora_A" in name and "text_model" in name
    }
    trained, total = trainable_share(wrapped)
    assert len(hit) >= 4 * 6 and 0.005 < trained / total < 0.02


def test_lora_reaches_every_linear_layer_of_the_blocks_and_no_frozen_part(tiny_config):
    pytest.importorskip("peft")
    model = wrap_lora(SlapModel(tiny_config), LoraSettings(r=2), "org/slap")
    hit = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name, p in model.named_parameters() if "lora_A" in name}  # fmt: skip # noqa: E501
    blocks = {
        name
        for name, module in SlapModel(tiny_config).named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    }
    assert hit == blocks and len(hit) == 3 * 4 + 2 * 4
    model = wrap_lora(
        SlapModel(tiny_config), LoraSettings(r=2), "org/slap", frozen=[r"audio_model\.layers\.0\.", "text"]
    )
    hit = {name for name, p in model.named_parameters() if "lora_A" in name}
    assert len(hit) == 2 * 4 and all("audio_model.layers.0." not in name and "text" not in name for name in hit)


def test_lora_on_an_untrained_adapter_changes_nothing_and_trains_only_itself(tiny_config):
    pytest.importorskip("peft")
    model = wrap_lora(SlapForAudioCaptioning(tiny_config), LoraSettings(r=2), "org/slap")
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert any("cross_attn.k_proj" in name for name in trained)
