"""CLAP 2023's path on real clips with a small HTSAT and GPT-2: labels first, then captions, then its 26 tasks."""

import json
import math

import pytest
import yaml
from accelerate.state import AcceleratorState
from datasets import Dataset
from safetensors.torch import load_file
from test_prepare_corpus import script
from test_pretrain import ROOT, load_script

import hf_slap
from hf_slap.data.recipes import CLAP_2023
from hf_slap.evaluation.card import BEGIN, END, unmeasured_text
from hf_slap.evaluation.results import score_table
from hf_slap.evaluation.suites import SUITES
from hf_slap.training_config import TrainConfig
from hf_slap.training_log import read_metrics

CONFIGS = ROOT / "examples" / "configs"
CLIPS = [f"train_data={ROOT / 'examples' / 'data' / 'train.parquet'}", "workers=0", "log_every=1"]


@pytest.fixture(scope="module")
def sets(corpus_rows, tmp_path_factory):
    """Seven real clips as sets of suites."""
    path = tmp_path_factory.mktemp("sets") / "clips.parquet"
    Dataset.from_list([{**row, "category": row["label"]} for row in corpus_rows]).to_parquet(path)
    return {"own": str(path), "esc50": str(path), "clotho": str(path)}


@pytest.fixture(scope="module")
def stages(sets, tmp_path_factory):
    """Folders of both stages, by the files that ship, of few clips and steps."""
    folder = tmp_path_factory.mktemp("clap")
    AcceleratorState._reset_state(reset_partial_state=True)
    script("pretrain_supervised").main(
        ["--config", str(CONFIGS / "clap_2023_labels_tiny.yaml"), *CLIPS, "train_split=train[:12]", "epochs=1",
         "validation_data=null", "validation_split=train[:4]", "batch_clips=8", "warmup_epochs=0",
         f"run_folder={folder / 'labels'}"]
    )  # fmt: skip
    AcceleratorState._reset_state(reset_partial_state=True)
    load_script().main(
        ["--config", str(CONFIGS / "clap_2023_tiny.yaml"), *CLIPS, "train_split=train[:24]", "max_batch_clips=6",
         f"audio_from={folder / 'labels' / 'model'}", f"run_folder={folder / 'clap'}", f"validation_data={sets['own']}",
         "validation_split=null", "zero_shot_tasks=[own-zero-shot]", f"zero_shot_data={{own: {sets['own']}}}",
         "total_steps=4", "warmup_steps=1", "validate_every=2", "checkpoint_every=4", "tracker=none"]
    )  # fmt: skip
    return folder


def test_the_second_stage_starts_from_the_tower_of_the_first(stages):
    told = json.loads((stages / "clap" / "start.json").read_text())
    parts = {row["part"]: (row["state"], row["source"]) for row in told["parts"]}
    assert parts["audio_model"] == ("loaded", str(stages / "labels" / "model")) and parts["text_model"] == ("new", "")
    assert not any(row["part"] == "audio_model" and row["state"] == "left out" for row in told["parts"])
    kinds = [told["config"][f"{tower}_config"]["model_type"] for tower in ("audio", "text")]
    assert kinds == ["slap_htsat", "gpt2"] and told["config"]["decoder_config"] is None
    rows = [row for row in read_metrics(stages / "clap") if row["kind"] == "train"]
    assert {"contrastive"} == {"contrastive", "masked", "caption"} & rows[0].keys() and len(rows) == 4


def test_what_is_exported_is_the_best_validation_and_classifies(stages, sets):
    said = {row["step"]: row["zero-shot score"] for row in read_metrics(stages / "clap") if row["kind"] == "validation"}
    best = max(said, key=lambda step: (said[step], -step))
    kept = load_file(stages / "clap" / "selected" / f"step-{best:08d}.safetensors")
    exported = load_file(stages / "clap" / "model" / "model.safetensors")
    assert all(
        (exported[name] == kept[name]).all() for name in ("slap.logit_scale", "slap.audio_projection.linear1.weight")
    )
    listener = hf_slap.Listener(str(stages / "clap" / "model"))
    assert listener.processor.feature_extractor.sampling_rate == 44_100


def test_the_26_tasks_say_the_papers_figure_beside_what_was_measured(stages, sets, tmp_path):
    """ESC-50's labels and Clotho's captions are at hand, of seven clips; nothing else is."""
    results = hf_slap.evaluate(
        stages / "clap" / "model", suite="clap2023", output=tmp_path, progress=False,
        data={name: sets[name] for name in ("esc50", "clotho")},
    )  # fmt: skip
    measured = {name for name, score in results.scores.items() if score["status"] == "measured"}
    assert measured == {"clap-esc50", "clap-clotho-audio-to-text", "clap-clotho-text-to-audio"}
    lines = score_table(list(results.scores.values())).splitlines()
    assert lines[0].startswith("| task | metric | value | reported elsewhere | 95 % interval |")
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:4] for line in lines[2:28]}
    assert set(cells) == {task.name for task in SUITES["clap2023"]}
    assert cells["clap-esc50"][1].endswith(" %") and cells["clap-esc50"][2] == "MS-CLAP 2023: 93.9 %"
    assert cells["clap-sesa"] == ["accuracy", "not measured", "MS-CLAP 2023: 65.0 %"]
    assert cells["clap-clotho-captioning"] == ["SPIDEr", "not measured", "MS-CLAP 2023, SPIDEr: 0.271"]


def test_the_card_has_the_26_tasks_with_the_papers_figures():
    card = (ROOT / "model_cards" / "clap-2023.md").read_text()
    assert card.split(BEGIN)[1].split(END)[0].strip() == unmeasured_text("clap2023")


def test_the_papers_numbers_are_those_of_the_large_configuration():
    config = TrainConfig.load(CONFIGS / "clap_2023.yaml")
    assert config.loss_weights == {"contrastive": 1.0, "masked": 0.0, "caption": 0.0}
    assert (config.schedule, config.plateau_factor, config.plateau_patience) == ("plateau", 0.1, 15)
    assert (config.peak_learning_rate, config.weight_decay, config.max_batch_clips) == (1e-3, 0, 1536)
    assert config.total_steps == round(40 * 4.6e6 / 1536) and config.validate_every == round(4.6e6 / 1536)
    assert math.exp(-config.model["logit_scale_init_value"]) == pytest.approx(0.007, rel=1e-3)
    assert config.model["logit_scale_max"] > math.exp(config.model["logit_scale_init_value"])
    judged = [task.name for task in SUITES["clap2023"] if task.kind == "zero_shot"]
    assert config.zero_shot_tasks == judged and len(judged) == 20 and config.select_by == "zero-shot score"


def test_the_tasks_of_the_large_first_stage_are_labelled_sources_of_the_corpus():
    config = script("pretrain_supervised").SupervisedConfig.load(CONFIGS / "clap_2023_labels.yaml")
    assert config.tasks.keys() < {name for recipes in CLAP_2023.values() for name in recipes}
    assert hf_slap.SlapConfig(audio_config=config.audio_config).audio_config == hf_slap.SlapHtsatConfig()


def test_the_list_of_sources_is_the_papers_and_what_is_missing_is_said(sets, tmp_path, capsys):
    prepare_corpus = script("prepare_corpus")
    given = yaml.safe_load((CONFIGS / "clap_2023_corpus.yaml").read_text())
    assert set(given["source"]) == {name for recipes in CLAP_2023.values() for name in recipes}
    (tmp_path / "list.yaml").write_text(
        f"sampling_rate: 44100\nworkers: 1\nsource: {{'parquet:here': {sets['own']}, clotho: nowhere}}\n"
        "evaluation: {esc50: nowhere}\n"
    )
    arguments = [str(tmp_path / "out"), "--config", str(tmp_path / "list.yaml"), "--skip-missing"]
    parsed = prepare_corpus.parse(arguments)
    assert [name for _, name, _ in parsed.source] == ["here"] and parsed.evaluation == []
    assert (parsed.sampling_rate, parsed.workers) == (44_100, 1)
    missing = (tmp_path / "out" / "reports" / "missing.txt").read_text()
    assert "source clotho is not in 'nowhere'. Clotho 2.1: " in missing and "nothing is filtered for it" in missing
    assert prepare_corpus.parse([*arguments, "--sampling-rate", "16000"]).sampling_rate == 16_000
    capsys.readouterr()
    for text, message in (
        ("sources: {}", "unknown keys ['sources']"),
        ("source: {cloto: x}", "source: no recipe 'cloto'"),
    ):
        (tmp_path / "list.yaml").write_text(text)
        with pytest.raises(SystemExit):
            prepare_corpus.parse(arguments)
        assert message in capsys.readouterr().err
