"""The supervised pretraining on real clips with a very small model, what can start from it, and labels on two processes.

The two processes (gloo, on the CPU) run once, one training after another; several tests read what they left.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate.state import AcceleratorState
from datasets import Audio, Dataset
from safetensors.torch import load_file
from test_pretrain import ROOT, losses, train
from transformers import pipeline

from hf_slap import SlapAudioModel, SlapFeatureExtractor, save_folder
from hf_slap.data import load_corpus
from hf_slap.supervised import one_task
from hf_slap.training_log import read_metrics

sys.path.insert(0, str(ROOT / "tests"))
from processes import free_ports, run_ranks  # noqa: E402

CORPUS = ROOT / "examples" / "data" / "train.parquet"
AUDIO = "{hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 48, max_audio_seconds: 1.0, initializer_range: 0.1}"
CLIPS = [
    f"train_data={CORPUS}", "train_split=train[:30]", f"validation_data={CORPUS}", "validation_split=train[:5]",
    "workers=0", "log_every=1", "clips.time_masks=0", "clips.freq_masks=0", "clips.cache_mb=50",
]  # fmt: skip
TASKS = [
    *CLIPS, f"audio_config={AUDIO}", "tasks.label={}", "tasks.domain={label_column: domain}",
    "tasks.tags={multi_label: true, weight: 10, clips: {mix_probability: 1.0}}",
    "batch_clips=15", "epochs=2", "warmup_epochs=0", "learning_rate=2e-3", "mixup=0.2",
]  # fmt: skip


def load(script: str):
    spec = importlib.util.spec_from_file_location(script, ROOT / "examples" / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: str, folder: Path, *overrides: str, resume: bool = False) -> Path:
    AcceleratorState._reset_state(reset_partial_state=True)  # one interpreter, many runs
    return load(script).main([*(["--resume"] if resume else []), f"run_folder={folder}", *overrides])


def validations(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder) if row["kind"] == "validation"]


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("supervised") / "run"
    run("pretrain_supervised", folder, *TASKS)
    return folder


# --------------------------------------------------------------------------------------------------- what it leaves
def test_every_task_is_learned_by_its_own_head(supervised):
    trail, scores = losses(supervised), validations(supervised)
    assert len(trail) == 12 and [row["step"] for row in scores] == [0, 6, 12]
    for task in ("label", "domain", "tags"):
        first, last = (sum(row[task] for row in rows) for rows in (trail[:4], trail[-4:]))
        assert last < first, task
    assert scores[-1]["mean score"] > scores[0]["mean score"] and scores[-1]["tags mAP"] > scores[-1]["tags chance"]
    assert trail[0]["total"] == pytest.approx(trail[0]["label"] + trail[0]["domain"] + 10 * trail[0]["tags"], rel=1e-5)
    three = ("label accuracy", "domain accuracy", "tags mAP")
    assert scores[0]["mean score"] == pytest.approx(sum(scores[0][name] for name in three) / 3)


def test_the_head_of_one_task_serves_the_pipeline(supervised, tmp_path):
    model = one_task(str(supervised / "model"), "domain")
    assert set(model.config.id2label.values()) == set(load_corpus(CORPUS, "train[:30]")["domain"])
    save_folder(tmp_path, model, SlapFeatureExtractor())
    classify = pipeline("audio-classification", model=str(tmp_path))
    (best, *_) = classify(torch.zeros(8000).numpy())
    assert best["label"] in model.config.label2id


def test_it_goes_on_to_the_last_bit(supervised, tmp_path):
    run("pretrain_supervised", tmp_path, *TASKS, "stop_step=7")
    assert not (tmp_path / "losses.png").exists()
    run("pretrain_supervised", tmp_path, *TASKS, resume=True)
    assert losses(tmp_path) == losses(supervised) and validations(tmp_path) == validations(supervised)
    for file in ("model/model.safetensors", "checkpoints/step-00000012/optimizer.safetensors"):
        assert (tmp_path / file).read_bytes() == (supervised / file).read_bytes()


def test_the_shipped_configuration_has_the_tower_of_the_tiny_one():
    script, configs = load("pretrain_supervised"), ROOT / "examples" / "configs"
    config = script.SupervisedConfig.load(configs / "tiny_supervised.yaml")
    assert config.audio_config == yaml.safe_load((configs / "tiny.yaml").read_text())["model"]["audio_config"]
    assert script.SupervisedConfig(**yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tasks={}"], "tasks is empty; name at least one"),
        (["tasks.label={label_column: kind}"], "looked for 'kind'"),
        (["tasks.label={multi_label: false, label_separator: o}"], "task label: some clip has several labels"),
        (["validation_split=null"], "task label: the validation corpus has labels .* that no training clip has"),
        (["train_data=''"], "tasks.label.train_data is not set, and the run's train_data neither"),
    ],
)
def test_mistakes_are_named(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run("pretrain_supervised", tmp_path, *TASKS, *overrides)


# --------------------------------------------------------------------------------------------- what starts from it
def test_pretraining_starts_from_its_tower_and_what_is_frozen_stays(supervised, tmp_path):
    """Its weights are taken bit by bit, and the frozen half keeps them through steps with weight decay. When the run goes
    on, the start may be gone."""
    tower = shutil.copytree(supervised / "model", tmp_path / "tower")
    start = [f"audio_from={tower}", "model.audio_config={}", r"frozen=['audio_model\.layers\.[01]\.']"]
    start += ["validation_data=null", "weight_decay=0.5", "total_steps=3", "layer_decay=0.5"]
    train(tmp_path / "run", *start, "stop_step=2")
    shutil.rmtree(tower)
    model = train(tmp_path / "run", *start, resume=True)
    before = SlapAudioModel.from_pretrained(supervised / "model").state_dict()
    after = SlapAudioModel.from_pretrained(model).state_dict()
    kept = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert kept == {name for name in before if name.startswith(("layers.0.", "layers.1."))}
    told = json.loads((tmp_path / "run" / "start.json").read_text())
    states = {row["part"]: (row["state"], row["source"]) for row in told["parts"]}
    assert states["audio_model"] == ("loaded", str(tower)) and states["text_model"] == ("new", "")
    assert told["config"]["audio_config"]["max_audio_seconds"] == 1.0, "the configuration is taken too"


def test_another_supervised_run_and_fine_tuning_start_from_it(supervised, tmp_path):
    tower = supervised / "model"
    run("pretrain_supervised", tmp_path / "one", *CLIPS, "tasks.domain={label_column: domain}", f"audio_tower={tower}", "epochs=1", "warmup_epochs=0", "learning_rate=1e-12", "batch_clips=15")  # fmt: skip
    run("finetune_classification", tmp_path / "two", *CLIPS, f"model={tower}", "method=probe", "probe_l2=[1e-3]")
    start = SlapAudioModel.from_pretrained(tower).state_dict()
    for name, tolerance in (("one", 1e-9), ("two", 0)):
        for key, value in SlapAudioModel.from_pretrained(tmp_path / name / "model").state_dict().items():
            torch.testing.assert_close(value, start[key], rtol=0, atol=tolerance)


# ------------------------------------------------------------------------------------------------- two processes
MIXED = ["batch_clips=10", "epochs=2", "warmup_epochs=0", "optimizer=adamw", "learning_rate=3e-3", "mixup=0.4"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_folder) -> Path:
    folder = tmp_path_factory.mktemp("two")
    rows = load_corpus(CORPUS, "train[:6]").to_list()
    rows[2]["audio"] = {"bytes": b"noise", "path": None}
    broken = Dataset.from_list(rows).cast_column("audio", Audio(decode=False))
    broken.to_parquet(folder / "broken.parquet")
    run_ranks(2, all_runs, folder, str(tiny_folder), free_ports(6))
    return folder


def all_runs(folder: Path, model: str, ports: list[int]) -> None:
    """What each of the two ranks does."""
    rank, said = os.environ["RANK"], {}

    def attempt(name, script, *overrides, engine="ddp"):
        os.environ["MASTER_PORT"] = str(ports.pop())
        os.environ.update(ACCELERATE_USE_FSDP=str(engine == "fsdp2").lower(), FSDP_VERSION="2")
        try:
            run(script, folder / name, *overrides)
        except Exception as error:
            said[name] = f"{type(error).__name__}: {error}"
        if dist.is_initialized():
            dist.destroy_process_group()

    classify = [*CLIPS, f"model={model}", "label_column=domain", *MIXED]
    attempt("classification", "finetune_classification", *classify)
    attempt("tasks", "pretrain_supervised", *TASKS, "stop_step=6")
    attempt("tasks fsdp2", "pretrain_supervised", *TASKS, "stop_step=6", engine="fsdp2")
    missing = [f"train_data={folder / 'missing.parquet'}"] if rank == "1" else []
    attempt("no corpus", "finetune_classification", *classify, *missing)
    gone = [f"model={folder / 'gone'}"] if rank == "1" else []
    attempt("no model", "finetune_retrieval", *CLIPS, f"model={model}", "batch_clips=6", *gone)
    few = [f"train_data={folder / 'broken.parquet'}", "train_split=null", "batch_clips=2", "mixup=0", "validation_data=null", "validation_split=train"]  # fmt: skip
    attempt("broken", "finetune_classification", *classify, *few)
    (folder / f"said by {rank}.json").write_text(json.dumps(said))


def assert_alike(two_processes, one, names):
    assert len(two_processes) == len(one) > 1
    for ours, theirs in zip(two_processes, one, strict=True):
        assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=2e-5)


def test_mixup_on_two_processes_has_the_losses_and_scores_of_one(two, tiny_folder, tmp_path):
    run("finetune_classification", tmp_path, *CLIPS, f"model={tiny_folder}", "label_column=domain", *MIXED)
    assert_alike(losses(two / "classification"), losses(tmp_path), ["total", "gradient_norm"])
    assert_alike(validations(two / "classification"), validations(tmp_path), ["accuracy", "low", "high"])
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (two / "classification", tmp_path))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize("engine", ["tasks", "tasks fsdp2"])
def test_tasks_on_two_processes_have_the_losses_and_scores_of_one(two, supervised, engine):
    assert_alike(losses(two / engine), losses(supervised)[:6], ["total", "label", "domain", "tags", "gradient_norm"])
    assert_alike(validations(two / engine), validations(supervised)[:2], ["mean score", "tags mAP"])
    shapes = [{n: v.shape for n, v in load_file(f / "model" / "model.safetensors").items()} for f in (two / engine, supervised)]  # fmt: skip
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no corpus", r"FileNotFoundError: no file or folder '.*missing.parquet'"),
        ("no model", "gone"),
        ("broken", "ValueError: not one clip of a batch can be used"),
    ],
)
def test_an_error_of_one_process_stops_the_other(two, name, message):
    said = [json.loads((two / f"said by {rank}.json").read_text()) for rank in (0, 1)]
    assert set(said[0]) == set(said[1]) == {"no corpus", "no model", "broken"}, said
    other = "RuntimeError: another process failed; its message says why"
    here, there = sorted([said[0][name], said[1][name]], key=lambda text: text == other)
    assert re.search(message, here) and there == other
