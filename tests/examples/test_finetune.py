"""The fine-tuning scripts on a folder of real clips with a metadata.csv, with a very small model."""

import copy
import csv
import importlib.util
import json
import os
from pathlib import Path

import pytest
import soundfile
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForAudioClassification, AutoProcessor, pipeline

import hf_slap
from hf_slap.checkpoint import CheckpointError
from hf_slap.finetuning import FinetuneConfig
from hf_slap.modeling import losses_slap
from hf_slap.starting_points import load_start
from hf_slap.training_log import SPEED, read_metrics

ROOT = Path(__file__).parents[2]
SHORT = ["workers=0", "log_every=1", "batch_clips=7", "clips.time_masks=0", "clips.freq_masks=0"]


def run(task: str, *overrides: str) -> Path:
    spec = importlib.util.spec_from_file_location(f"finetune_{task}", ROOT / "examples" / f"finetune_{task}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([*SHORT, *overrides])


def losses(folder: Path) -> list[float]:
    return [row["total"] for row in read_metrics(folder) if row["kind"] == "train"]


def validations(folder: Path) -> list[dict]:
    return [row for row in read_metrics(folder) if row["kind"] == "validation"]


def pickles(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    """Nine short clips as a user has them, sound files and metadata.csv, and one that is too short to be heard."""
    from pyarrow import parquet

    columns = ["id", "audio", "captions", "label", "duration"]
    rows = parquet.read_table(ROOT / "examples" / "data" / "heldout.parquet", columns=columns).to_pylist()
    rows = sorted((row for row in rows if 0.3 < row["duration"] < 1.2), key=lambda row: row["id"])[:9]
    folder = tmp_path_factory.mktemp("clips")
    extractor = hf_slap.SlapFeatureExtractor()
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption", "label", "labels"])
        for number, row in enumerate(rows):
            soundfile.write(folder / f"{number}.wav", extractor.load(row["audio"]), 16_000)
            kind = "impact" if number % 2 else "other"
            table.writerow([f"{number}.wav", row["captions"][0], kind, "short;" + kind])
        soundfile.write(folder / "blip.wav", [0.1] * 160, 16_000)
        table.writerow(["blip.wav", "a blip", "other", "short"])
    return folder


@pytest.fixture(scope="module")
def start(tiny_config, tiny_processor, tmp_path_factory) -> Path:
    """An untrained tiny model whose weights are as large as its width needs to learn quickly."""
    config = copy.deepcopy(tiny_config)
    for part in (config, config.audio_config, config.text_config, config.decoder_config):
        part.initializer_range = 0.1
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    hf_slap.save_folder(folder, hf_slap.SlapForPreTraining(config), tiny_processor)
    return folder


@pytest.fixture(scope="module")
def given(clips, start) -> list[str]:
    return [f"model={start}", f"train_data={clips}", f"validation_data={clips}"]


@pytest.fixture(scope="module")
def retrieval(given, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("retrieval") / "run"
    frozen = r"frozen=['text_model', 'audio_model\.layers\.0\.']"
    run("retrieval", *given, f"run_folder={folder}", frozen, "epochs=8", "validate_every=4", "learning_rate=3e-3")
    return folder


@pytest.fixture(scope="module")
def lora_retrieval(given, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora") / "run"
    run("retrieval", *given, f"run_folder={folder}", "epochs=10", "validate_every=5", "learning_rate=2e-2", "lora.r=3")
    return folder


@pytest.fixture(scope="module")
def lora_captioning(given, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lora-captions") / "run"
    run("captioning", *given, f"run_folder={folder}", "epochs=6", "validate_every=6", "learning_rate=1e-2", "lora.r=3")
    return folder


# ------------------------------------------------------------------------------------------------------- retrieval
def test_retrieval_learns_and_keeps_the_best_by_the_mean_of_both_directions(retrieval):
    trail = losses(retrieval)
    assert sum(trail[-2:]) < sum(trail[:2])
    scores = validations(retrieval)
    for row in scores:
        both = (row["text to audio map@10"] + row["audio to text map@10"]) / 2
        assert row["mean map@10"] == pytest.approx(both)
    assert [row["step"] for row in scores] == [0, 4, 8]
    assert max(row["mean map@10"] for row in scores) > scores[0]["mean map@10"]


def test_frozen_parts_stay_as_they_were_to_the_last_bit(retrieval, start):
    before, after = load_file(start / "model.safetensors"), load_file(retrieval / "model" / "model.safetensors")
    moved = {name for name, value in after.items() if not torch.equal(value, before[f"slap.{name}"])}
    frozen = {n for n in after if n.startswith(("text_model.", "audio_model.layers.0.")) or n.endswith("mask_token")}
    assert frozen and moved and not moved & frozen
    assert {"audio_projection.weight", "text_projection.weight", "logit_scale"} <= moved


def test_a_run_leaves_what_can_be_read_and_nothing_pickled(retrieval, start):
    assert {"config.yaml", "metrics.jsonl", "losses.png", "start.json", "model"} <= set(os.listdir(retrieval))
    assert not pickles(retrieval)
    told = json.loads((retrieval / "start.json").read_text())
    states = {(row["part"], row["state"]) for row in told["parts"]}
    assert ("audio_model", "loaded") in states and ("decoder", "left out") in states
    assert {row["source"] for row in told["parts"]} == {str(start)}
    model = AutoModel.from_pretrained(retrieval / "model")
    assert told["trained"] < told["total"] == sum(p.numel() for p in model.parameters())


def test_a_captioner_that_heard_another_tower_is_not_promised(retrieval):
    with pytest.raises(ValueError, match="has no caption decoder"):
        hf_slap.SlapForAudioCaptioning.from_pretrained(retrieval / "model")


def test_clips_that_cannot_be_heard_are_listed_once(retrieval):
    lines = (retrieval / "skipped_clips.jsonl").read_text().splitlines()
    assert len(lines) == 1 and "blip.wav" in lines[0] and "too short" in lines[0]


def test_a_model_of_the_sigmoid_loss_is_tuned_by_it(given, start, tiny_processor, tmp_path):
    torch.manual_seed(0)
    model = hf_slap.SlapForPreTraining(AutoConfig.from_pretrained(start, contrastive_kind="sigmoid"))
    hf_slap.save_folder(tmp_path / "sigmoid", model, tiny_processor)
    run("retrieval", *given, f"model={tmp_path / 'sigmoid'}", f"run_folder={tmp_path / 'run'}", "epochs=1")
    (saved,) = (tmp_path / "run" / "checkpoints").glob("step-*/model.safetensors")
    assert load_file(saved)["logit_bias"] != model.slap.logit_bias, "the softmax loss has no gradient for it"


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_does_harm(given, tmp_path, monkeypatch):
    real = losses_slap.caption_loss
    # the square root of 0 is 0, its slope is not finite
    monkeypatch.setattr(losses_slap, "caption_loss", lambda x, *more: real(x, *more) + (0 * x.sum()).sqrt())
    message = r"loss of step 1 is \d\.\d+, the norm of its gradient nan; clips \['.*Lower learning_rate"
    with pytest.raises(FloatingPointError, match=message):
        run("captioning", *given, f"run_folder={tmp_path / 'run'}", "epochs=1", "checkpoint_every=1")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_run_is_not_overwritten(retrieval, given, capsys):
    with pytest.raises(SystemExit):
        run("retrieval", *given, f"run_folder={retrieval}")
    assert "holds another run" in capsys.readouterr().err


def test_another_text_tower_and_another_audio_tower(given, start, tiny_folder, tiny_processor, tmp_path, capsys):
    hf_slap.SlapModel.from_pretrained(tiny_folder).text_model.save_pretrained(tmp_path / "text")
    tiny_processor.tokenizer.save_pretrained(tmp_path / "text")
    towers = [f"text_tower={tmp_path / 'text'}", f"audio_tower={tiny_folder}"]
    run("retrieval", *given, *towers, f"run_folder={tmp_path / 'run'}", "epochs=1", "learning_rate=1e-9")
    parts = json.loads((tmp_path / "run" / "start.json").read_text())["parts"]
    came = {(row["part"], row["state"]): row["source"] for row in parts}
    assert came["audio_model", "loaded"] == str(tiny_folder)
    assert came["text_model", "loaded"] == str(tmp_path / "text")
    assert came["text_projection", "new"] == came["text_pooler", "new"] == ""
    assert came["audio_projection", "loaded"] == came["text_model", "left out"] == str(start)
    assert "starting point:" in capsys.readouterr().out
    ours = AutoModel.from_pretrained(tmp_path / "run" / "model")
    theirs = hf_slap.SlapModel.from_pretrained(tiny_folder)
    for tower in ("audio_model", "text_model"):
        for one, other in zip(getattr(ours, tower).parameters(), getattr(theirs, tower).parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


# -------------------------------------------------------------------------------------------------------- captions
def test_captioning_learns_and_shows_what_it_writes(given, tmp_path, capsys):
    folder = tmp_path / "run"
    more = ["epochs=10", "validate_every=5", "learning_rate=1e-2", "warmup_epochs=1"]
    run("captioning", *given, f"run_folder={folder}", *more)
    trail, scores = losses(folder), validations(folder)
    assert trail[-1] < trail[0] and scores[-1]["loss"] < scores[0]["loss"]
    assert scores[-1]["token accuracy"] > scores[0]["token accuracy"]
    assert 0 <= scores[-1]["word f1"] <= 1
    assert "; right: '" in capsys.readouterr().out and not pickles(folder)
    caption = pipeline("audio-captioning", model=str(folder / "model"))
    assert isinstance(caption(torch.zeros(8000).numpy(), sampling_rate=16_000)[0]["generated_text"], str)


def test_a_captioner_behind_a_prefix_learns_and_then_its_mapper_alone(given, tmp_path):
    sizes = "prefix={prefix_tokens: 5, projected_tokens: 3, mapper_layers: 1, mapper_heads: 2, max_caption_tokens: 19}"
    writer = "language_model={n_embd: 20, n_layer: 1, n_head: 2, n_positions: 29, initializer_range: 0.3}"
    first, second = tmp_path / "first", tmp_path / "second"
    more = ["epochs=10", "validate_every=10", "learning_rate=1e-2", "write_clips=2"]
    run("captioning", *given, writer, sizes, *more, f"run_folder={first}", r"frozen=['^slap\.']")
    scores = validations(first)
    assert scores[-1]["loss"] < scores[0]["loss"] - 0.5
    parts = {(row["part"], row["state"]) for row in json.loads((first / "start.json").read_text())["parts"]}
    assert {("audio_model", "loaded"), ("mapper", "new"), ("language_model", "new"), ("decoder", "left out")} <= parts

    frozen = r"frozen=['^slap\.', '^language_model\.']"
    run("captioning", *given, *more, f"model={first / 'model'}", f"run_folder={second}", frozen)
    assert losses(second)[-1] < losses(second)[0]
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (first, second))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith("mapper.")
    }


# -------------------------------------------------------------------------------------------------- classification
def test_full_fine_tuning_learns_two_classes(given, clips, tmp_path):
    folder = tmp_path / "run"
    more = ["epochs=12", "warmup_epochs=1", "validate_every=6", "optimizer=adamw", "learning_rate=5e-3", "mixup=0.1"]
    run("classification", *given, f"run_folder={folder}", *more, "layer_decay=0.8")
    trail, scores = losses(folder), validations(folder)
    assert sum(trail[-2:]) < sum(trail[:2])
    assert scores[-1]["low"] <= scores[-1]["accuracy"] <= scores[-1]["high"] and scores[-1]["chance"] == 0.5
    answers = pipeline("audio-classification", model=str(folder / "model"))(str(clips / "0.wav"))
    assert {answer["label"] for answer in answers} == {"impact", "other"}


def test_a_linear_probe_computes_features_once_and_changes_only_the_head(given, clips, start, tmp_path):
    folder = tmp_path / "run"
    run("classification", *given, f"run_folder={folder}", "method=probe", "probe_l2=[1e-4]")
    trail = losses(folder)
    assert trail[-1] < trail[0] and validations(folder)[0]["accuracy"] > 0.5
    before, after = load_file(start / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    changed = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_clips_with_several_labels(given, tmp_path):
    folder = tmp_path / "run"
    more = ["label_column=labels", "label_separator=;", "epochs=2", "warmup_epochs=0", "learning_rate=1e-2"]
    run("classification", *given, f"run_folder={folder}", *more)
    (*_, last) = validations(folder)
    assert 0 <= last["low"] <= last["mAP"] <= last["high"] <= 1
    config = AutoConfig.from_pretrained(folder / "model")
    assert config.problem_type == "multi_label_classification"
    assert set(config.id2label.values()) == {"short", "impact", "other"}


# ------------------------------------------------------------------------------------------------------------ LoRA
def test_an_adapter_for_retrieval_loads_and_merges_to_equal_outputs(lora_retrieval, start, clips):
    trail = losses(lora_retrieval)
    assert trail[-1] < trail[0]
    adapted = AutoModel.from_pretrained(lora_retrieval / "adapter").eval()
    merged = AutoModel.from_pretrained(lora_retrieval / "model").eval()
    base = AutoModel.from_pretrained(start).eval()
    processor = AutoProcessor.from_pretrained(lora_retrieval / "adapter")
    audio = [str(clips / "0.wav"), str(clips / "3.wav")]
    inputs = processor(text=["a door", "rain"], audio=audio, return_tensors="pt")
    with torch.no_grad():
        one, other, was = (model(**inputs) for model in (adapted, merged, base))
    for name in ("audio_embeds", "text_embeds", "logits_per_audio"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-5)
    assert (one.audio_embeds - was.audio_embeds).abs().max() > 1e-3, "the adapter does something"
    size = (lora_retrieval / "adapter" / "adapter_model.safetensors").stat().st_size
    assert size < (start / "model.safetensors").stat().st_size and not pickles(lora_retrieval)


def test_the_stock_pipeline_and_ours_take_the_adapter(lora_retrieval, clips):
    sound = hf_slap.SlapFeatureExtractor().load(str(clips / "0.wav"))
    answers = []
    for folder in ("adapter", "model"):
        classify = pipeline("zero-shot-audio-classification", model=str(lora_retrieval / folder))
        embed = pipeline("audio-feature-extraction", model=str(lora_retrieval / folder))
        scores = {a["label"]: a["score"] for a in classify(sound, candidate_labels=["a door", "rain"])}
        answers.append([scores["rain"], *embed(str(clips / "0.wav"))])
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)


def test_an_adapter_for_captions_writes_what_the_merged_model_writes(lora_captioning, clips):
    assert losses(lora_captioning)[-1] < losses(lora_captioning)[0]
    written = [
        pipeline("audio-captioning", model=str(lora_captioning / f))(str(clips / "0.wav")) for f in ("adapter", "model")
    ]
    assert written[0] == written[1]


def test_an_adapter_for_classes_brings_its_head(given, clips, tmp_path):
    folder = tmp_path / "run"
    more = ["epochs=4", "warmup_epochs=0", "validate_every=2", "optimizer=adamw", "learning_rate=1e-2", "lora.r=3"]
    run("classification", *given, f"run_folder={folder}", *more)
    config = AutoConfig.from_pretrained(folder / "adapter" / "classes")
    adapted = AutoModelForAudioClassification.from_pretrained(folder / "adapter", config=config).eval()
    merged = AutoModelForAudioClassification.from_pretrained(folder / "model").eval()
    inputs = hf_slap.SlapFeatureExtractor()([str(clips / "2.wav")], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(adapted(**inputs).logits, merged(**inputs).logits, rtol=0, atol=1e-5)
    assert merged.config.id2label == {0: "impact", 1: "other"}
    extractor, sound = hf_slap.SlapFeatureExtractor(), torch.zeros(9000).numpy()
    one, other = (
        pipeline("audio-classification", model=m, feature_extractor=extractor)(sound) for m in (adapted, merged)
    )
    assert {a["label"]: a["score"] for a in one} == pytest.approx({a["label"]: a["score"] for a in other}, abs=1e-5)


# ----------------------------------------------------------------------------------------------- stopping, going on
@pytest.mark.parametrize(
    ("task", "overrides", "kept"),
    [
        ("retrieval", ["lora={r: 3, dropout: 0.2}"], "adapter/adapter_model.safetensors"),
        ("captioning", ["write_clips=0", "layer_decay=0.7", "warmup_epochs=1"], "model/model.safetensors"),
        ("classification", ["mixup=0.3", "optimizer=sgd", "warmup_epochs=1"], "model/model.safetensors"),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(given, tmp_path, task, overrides, kept):
    overrides = [*given, "epochs=3", "batch_clips=4", "learning_rate=5e-3", *overrides]
    one, other = tmp_path / "one", tmp_path / "other"
    run(task, *overrides, f"run_folder={one}")
    run(task, *overrides, f"run_folder={other}", "stop_step=1")
    torch.rand(7)  # whatever else drew random numbers in the meantime
    run(task, "--resume", *overrides, f"run_folder={other}", "stop_step=4", "checkpoint_every=3")
    run(task, "--resume", *overrides, f"run_folder={other}")
    trails = [[{n: v for n, v in row.items() if n not in SPEED} for row in read_metrics(f)] for f in (one, other)]
    assert len(losses(one)) == 6 and trails[0] == trails[1]
    for file in (kept, *(f"checkpoints/step-00000006/{n}.safetensors" for n in ("model", "optimizer", "random"))):
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
    assert len(list((other / "checkpoints").iterdir())) == 1, "only the last one is kept"
    if "lora" in overrides[-1]:
        assert all("lora_" in name for name in load_file(one / "checkpoints" / "step-00000006" / "model.safetensors"))
    with pytest.raises(CheckpointError, match="learning_rate: 0.005 there, 0.1 now"):
        run(task, "--resume", *overrides, f"run_folder={other}", "learning_rate=0.1")


def test_resuming_where_nothing_was_saved_starts_the_run(given, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "validation", "step": 0, "loss": 9.0}\n')
    run("captioning", "--resume", *given, f"run_folder={tmp_path}", "epochs=1", "write_clips=0", "stop_step=1")
    assert [row["step"] for row in validations(tmp_path)] == [0, 1] and validations(tmp_path)[0]["loss"] < 9


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_adapters_are_learned_on_a_base_in_few_bits(given, start, clips, tmp_path, bits):
    """With bitsandbytes' code for CPUs; linear layers of the blocks are held in 8 or 4 bits, adapters in float32."""
    pytest.importorskip("bitsandbytes")
    more = [f"quantization={bits}", "epochs=4", "validate_every=4", "learning_rate=1e-2", "lora.r=3", "batch_clips=9"]
    run("retrieval", *given, f"run_folder={tmp_path}", *more, "stop_step=2")
    run("retrieval", *given, f"run_folder={tmp_path}", *more, "--resume")
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert not (tmp_path / "model").exists(), "few bits are not merged into"
    saved = load_file(tmp_path / "checkpoints" / "step-00000004" / "model.safetensors")
    assert saved and all("lora_" in name for name in saved)
    model, _ = load_start(hf_slap.SlapModel, str(start), quantization=bits)
    assert model.audio_model.layers[0].mlp.down_proj.weight.dtype == {"8bit": torch.int8, "4bit": torch.uint8}[bits]
    sound = hf_slap.SlapFeatureExtractor()([str(clips / "0.wav")], return_tensors="pt")
    adapted = AutoModel.from_pretrained(tmp_path / "adapter").eval()  # on the float32 base
    with torch.no_grad():
        one, other = (m.eval().get_audio_features(**sound).pooler_output for m in (model, adapted))
    assert 0.8 < torch.cosine_similarity(one, other).item() < 0.9999


# ---------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("task", "overrides", "error", "message"),
    [
        ("retrieval", ["lr=1"], ValueError, r"unknown keys \['lr'\]; known keys are \['audio_tower'"),
        ("retrieval", ["lora.rank=4"], ValueError, r"unknown keys \['lora.rank'\]; known keys are \['lora.alpha'"),
        ("retrieval", ["clips.mask=4"], ValueError, r"unknown keys \['clips.mask'\]"),
        ("retrieval", ["epochs=many"], ValueError, "epochs is 'many' .str.; expected int"),
        ("retrieval", ["quantization=4bit"], ValueError, "holds weights that cannot be trained; set lora"),
        ("retrieval", ["quantization=3bit", "lora.r=4"], ValueError, r"accepted are null and \['8bit', '4bit'\]"),
        ("retrieval", ["text_tower=x", "lora.r=4"], ValueError, "an adapter names one model to lie on"),
        ("retrieval", ["frozen=[decoder]"], ValueError, "frozen: no parameter is named like 'decoder'"),
        ("retrieval", ["layer_decay=0"], ValueError, "layer_decay is 0.0; it must lie above 0"),
        ("retrieval", ["lora.target_modules=nothing"], ValueError, "nothing"),
        ("classification", ["method=probe", "lora.r=4"], ValueError, "method=probe trains no weight of the model"),
        ("classification", ["label_column=kind"], ValueError, "looked for 'kind'"),
        (
            "classification",
            ["label_column=labels", "label_separator=;", "multi_label=false"],
            ValueError,
            "several labels",
        ),
    ],
)
def test_mistakes_are_named(given, tmp_path, task, overrides, error, message):
    with pytest.raises(error, match=message):
        run(task, *given, f"run_folder={tmp_path / 'run'}", "epochs=1", "warmup_epochs=0", *overrides)


def test_without_peft_or_bitsandbytes_the_error_says_what_to_install(given, tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "peft" else real(name, *more))
    with pytest.raises(ImportError, match="lora needs the package peft: `pip install peft`"):
        run("retrieval", *given, f"run_folder={tmp_path / 'one'}", "lora.r=4")
    monkeypatch.setattr("hf_slap.starting_points.is_bitsandbytes_available", lambda: False)
    with pytest.raises(ImportError, match="quantization=8bit needs the package bitsandbytes"):
        run("retrieval", *given, f"run_folder={tmp_path / 'two'}", "lora.r=4", "quantization=8bit")


def test_an_adapter_is_no_start(lora_retrieval, clips, tmp_path):
    with pytest.raises(ValueError, match="is an adapter, not a model; start from the merged folder"):
        run("retrieval", f"model={lora_retrieval / 'adapter'}", f"train_data={clips}", f"run_folder={tmp_path}")


def test_a_label_that_no_training_clip_has(given, clips, tmp_path):
    split = ["train_split=train[:1]", "validation_split=train"]
    with pytest.raises(ValueError, match="the validation corpus has labels .* that no training clip has"):
        run("classification", *given, *split, f"run_folder={tmp_path}")


@pytest.mark.parametrize(
    ("name", "file"),
    [(name, name) for name in ("retrieval", "captioning", "classification")] + [("captioning", "prefix_captioning")],
)
def test_the_shipped_configurations_load(name, file):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"finetune_{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config_class = next(
        c for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, FinetuneConfig) and c is not FinetuneConfig
    )  # fmt: skip
    path = ROOT / "examples" / "configs" / f"finetune_{file}.yaml"
    if file == "prefix_captioning":
        with pytest.raises(ValueError, match="with lora, audio_tower, text_tower and language_model must be null"):
            config_class.load(path, ["lora.r=4"])
    config = config_class.load(path, ["lora.r=4", *(["language_model=null"] if file == "prefix_captioning" else [])])
    assert config.lora["r"] == 4
    assert config_class(**yaml.safe_load(config.to_yaml())) == config
