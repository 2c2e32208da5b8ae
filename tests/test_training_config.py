"""The configuration of a run: one owner per number, misspellings refused."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from hf_slap.training_config import TrainConfig

FOLDER = Path(__file__).parents[1] / "examples" / "configs"
OTHERS = (
    "finetune",
    "tiny_supervised",
    "tiny_clap",
    "claims",
    "clap_2023_corpus",
    "clap_2023_labels",
)  # of other scripts
CONFIGS = [path for path in sorted(FOLDER.rglob("*.yaml")) if not str(path.relative_to(FOLDER)).startswith(OTHERS)]


def load(*overrides):
    return TrainConfig.load(None, ["train_data=clips.parquet", *overrides])


def test_the_defaults_are_the_papers_numbers():
    config = load()
    assert config.loss_weights == {"contrastive": 1.0, "masked": 1.0, "caption": 0.5}
    assert (config.peak_learning_rate, config.warmup_steps, config.total_steps) == (1e-4, 2000, 106_445)
    assert (config.teacher_momentum_start, config.teacher_momentum_end) == (0.994, 1.0)
    assert config.clips["mask_ratio"] == 0.5 and config.text_model == "answerdotai/ModernBERT-base"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_read_and_says_only_what_differs(path):
    config, said = TrainConfig.load(path), yaml.safe_load(path.read_text())
    base = said.pop("base", None)
    default = dataclasses.asdict(TrainConfig.load(path.parent / base) if base else TrainConfig())
    for name, value in said.items():
        assert value != default[name], f"{path.name} repeats the default of {name}"
    assert config.train_data


def test_overrides_reach_into_sections_and_keep_the_rest(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("train_data: clips.parquet\nmodel: {audio_config: {hidden_size: 96}}\n")
    config = TrainConfig.load(
        file, ["model.audio_config.num_hidden_layers=3", "clips.mask_ratio=0.25", "text_model=null"]
    )
    assert config.model == {"audio_config": {"hidden_size": 96, "num_hidden_layers": 3}}
    assert config.clips["mask_ratio"] == 0.25 and config.clips["time_masks"] == 2
    assert config.text_model is None


def test_what_is_printed_is_read_back_to_the_same(tmp_path):
    config = load("model.projection_dim=32", "clips.mix_probability=0.5")
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml())
    assert TrainConfig.load(file) == config


def test_numbers_may_be_written_without_a_point():
    assert load("peak_learning_rate=1e-3", "batch_seconds=60").peak_learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr=1", r"unknown keys \['lr'\]; known keys are \['accumulation_steps', "),
        ("clips.ratio=1", r"unknown keys \['clips.ratio'\]; known keys are \['clips.cache_mb', "),
        ("clips.max_seconds=5", "unknown keys"),  # it follows from the model
        ("total_steps=many", r"total_steps is 'many' \(str\); expected int"),
        ("total_steps=1.5", "expected int"),
        ("workers=true", "expected int"),
        ("gradient_checkpointing=1", "expected bool"),
        ("validation_split=3", "expected str or null"),
        ("clips.mask_ratio=half", "clips.mask_ratio is 'half'"),
        ("total_steps=2000", "warmup_steps is 2000; it must be less than total_steps, 2000"),
        ("batch_seconds=0", "batch_seconds is 0.0; it must be positive"),
        ("data_fraction=0", "data_fraction is 0.0; it must be positive"),
        ("data_fraction=1.5", "data_fraction must be at most 1"),
        ("source_weights=loudness", "source_weights one of .*'clips', 'hours'"),
        ("mask_kind=square", r"accepted are \['random', 'block'\]"),
        ("masked_weight=-1", "must not be negative"),
        ("zero_shot_prompt=sound", "must contain {label}"),
        ("parallel_caption_share=75", "parallel_caption_share is 75.0; it must lie between 0 and 1"),
        ("clips.parallel_caption_share=0.5", "unknown keys"),  # it follows from parallel_caption_share
        ("seed", "must be key=value"),
        ("seed.x=1", "not a section|expected int"),
    ],
)
def test_what_cannot_be_meant_is_refused(override, message):
    with pytest.raises(ValueError, match=message):
        load(override)


def test_a_run_without_data_or_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="train_data is not set"):
        TrainConfig.load(None)
    with pytest.raises(ValueError, match="all 0"):
        load("contrastive_weight=0", "masked_weight=0", "caption_weight=0")


def test_a_file_that_holds_no_keys_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("- 1\n")
    with pytest.raises(ValueError, match="expected `key: value`"):
        TrainConfig.load(file)


def test_a_file_says_only_what_differs_from_its_base(tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "base.yaml").write_text("train_data: a\nseed: 3\nmodel: {audio_config: {hidden_size: 96}}\n")
    (tmp_path / "sets" / "middle.yaml").write_text("base: ../base.yaml\nmodel: {projection_dim: 8}\ntrain_data: b\n")
    (tmp_path / "sets" / "top.yaml").write_text("base: middle.yaml\nmodel: {audio_config: {num_hidden_layers: 2}}\n")
    config = TrainConfig.load(tmp_path / "sets" / "top.yaml", ["model.projection_dim=9"])
    assert (config.train_data, config.seed) == ("b", 3)
    assert config.model == {"audio_config": {"hidden_size": 96, "num_hidden_layers": 2}, "projection_dim": 9}
    (tmp_path / "base.yaml").write_text("base: sets/top.yaml\n")
    with pytest.raises(ValueError, match="built upon"):
        TrainConfig.load(tmp_path / "sets" / "top.yaml")


def test_what_is_only_watched_or_written_may_change_when_a_run_goes_on():
    same = load("log_every=1", "workers=0", "clips.cache_mb=9", "run_folder=elsewhere")
    assert same.settings() == load().settings()
    assert load("seed=1").settings() != load().settings()
