"""The pretraining script on real clips of the corpus that ships with the repository, with a very small model."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor, pipeline

from hf_slap import SlapForAudioCaptioning, objectives, pretraining_step
from hf_slap.checkpoint import CheckpointError, last_checkpoint
from hf_slap.data import load_corpus
from hf_slap.evaluation.retrieval import relevance, retrieval_scores
from hf_slap.prototypes import SoftmaxCentering
from hf_slap.skipped_steps import TooManySkippedSteps, read_skipped
from hf_slap.training_log import SPEED, read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "pretrain.py"
GOLDEN = ROOT / "tests" / "golden" / "pretrain_losses.json"
PARTS = ("contrastive", "masked", "caption")

# 24 clips to learn from and 6 held out; a model of three layers, 32 wide, its weights as large as that width needs.
SMALL = [
    f"train_data={ROOT / 'examples' / 'data' / 'train.parquet'}", "train_split=train[:24]",
    f"validation_data={ROOT / 'examples' / 'data' / 'heldout.parquet'}", "validation_split=train[:6]",
    "text_model=null", "tokenizer=captions", "max_caption_tokens=24",
    "model.audio_config={hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 48}",
    "model.audio_config.max_audio_seconds=2.0",
    "model.text_config={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}",
    "model.decoder_config={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64}",
    "model.projection_dim=16", "model.num_prototypes=64", "model.prototype_hidden_size=32",
    "model.prototype_bottleneck_size=16", "model.initializer_range=0.1", "model.audio_config.initializer_range=0.1",
    "model.text_config.initializer_range=0.1", "model.decoder_config.initializer_range=0.1",
    "batch_seconds=8", "total_steps=5", "warmup_steps=2", "freeze_prototypes_steps=2", "peak_learning_rate=2e-4",
    "workers=0", "log_every=1", "validate_every=100", "checkpoint_every=2", "tracker=none",
]  # fmt: skip


def load_script():
    spec = importlib.util.spec_from_file_location("pretrain", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train(folder, *overrides, resume=False):
    AcceleratorState._reset_state(reset_partial_state=True)  # one interpreter, many runs
    arguments = [*SMALL, f"run_folder={folder}", *overrides]
    return load_script().main([*(["--resume"] if resume else []), *arguments])


def losses(folder):
    """What a run printed of its losses, without what depends on the clock."""
    rows = [row for row in read_metrics(folder) if row["kind"] == "train"]
    return [{name: v for name, v in row.items() if name not in SPEED} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    train(folder)
    return folder


# ------------------------------------------------------------------------------------------------- the losses
def test_the_first_losses_are_the_golden_ones(uninterrupted):
    golden = json.loads(GOLDEN.read_text())
    stack = {"torch": torch.__version__, "transformers": transformers.__version__}
    if any(found.split(".")[:2] != golden[name].split(".")[:2] for name, found in stack.items()):
        pytest.skip(f"other versions draw other initial weights: here {stack}, the trail is of {golden['torch']}")
    trail = [{name: row[name] for name in PARTS} for row in losses(uninterrupted)]
    for step, (ours, stored) in enumerate(zip(trail, golden["losses"], strict=True), start=1):
        assert ours == pytest.approx(stored, rel=2e-4), f"step {step}; see {golden['written_by']}"


def test_a_second_run_repeats_the_first_to_the_last_bit(uninterrupted, tmp_path):
    train(tmp_path)
    assert losses(tmp_path) == losses(uninterrupted)


def test_the_batch_order_and_masks_follow_the_seed(uninterrupted, tmp_path):
    train(tmp_path, "seed=1", "stop_step=1")
    assert losses(tmp_path)[0] != losses(uninterrupted)[0]


def test_two_processes_train_as_one_does(uninterrupted, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT]
    child = subprocess.run(
        [*command, *SMALL, f"run_folder={tmp_path}"], capture_output=True, text=True, env=one_thread_env()
    )
    assert child.returncode == 0, child.stderr
    for ours, one in zip(losses(tmp_path), losses(uninterrupted), strict=True):
        assert {n: ours[n] for n in PARTS} == pytest.approx({n: one[n] for n in PARTS}, rel=1e-4)
        assert ours["clips"] == one["clips"]
    assert child.stdout.count("step 5/5  held out") == 1, "only the first process speaks"


# ----------------------------------------------------------------------------------------- stopping, going on
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_last_bit(uninterrupted, tmp_path):
    train(tmp_path, "stop_step=3")
    torch.rand(7)  # whatever else drew random numbers in the meantime
    train(tmp_path, resume=True)
    assert_same_end(tmp_path, uninterrupted)


def one_thread_env():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def assert_same_end(ours: Path, theirs: Path):
    assert losses(ours) == losses(theirs)
    for name in ("model", "optimizer", "teacher", "random"):
        file = f"checkpoints/step-00000005/{name}.safetensors"
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), name


def test_a_run_folder_with_checkpoints_is_not_overwritten(uninterrupted, capsys):
    with pytest.raises(SystemExit):
        train(uninterrupted)
    assert "pass --resume to go on, or another run_folder" in capsys.readouterr().err


def test_a_run_cannot_go_on_with_other_settings(uninterrupted):
    with pytest.raises(CheckpointError, match="peak_learning_rate: 0.0002 there, 0.002 now"):
        train(uninterrupted, "peak_learning_rate=2e-3", resume=True)


def test_resuming_a_finished_run_exports_again(uninterrupted):
    before = losses(uninterrupted)
    assert train(uninterrupted, resume=True) == uninterrupted / "model"
    assert losses(uninterrupted) == before


def test_resuming_where_nothing_was_saved_starts_the_run(tmp_path, uninterrupted):
    train(tmp_path, "stop_step=1", resume=True)
    assert losses(tmp_path) == losses(uninterrupted)[:1]


# ---------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    "overrides",
    [
        ["contrastive_weight=0"],
        ["masked_weight=0"],
        ["caption_weight=0"],
        ["masked_weight=0", "caption_weight=0"],
        ["shared_masked_pass=true", "centering=softmax", "mask_kind=block", "gradient_checkpointing=true"],
        ["model.audio_config.layer_types=[full_attention, full_attention, full_attention]"],
        ["precision=bf16"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_variant_is_a_change_of_the_configuration(tmp_path, overrides):
    train(tmp_path, "stop_step=1", "validation_data=null", *overrides)
    (row,) = losses(tmp_path)
    assert {name for name in PARTS if name in row} == {n for n in PARTS if f"{n}_weight=0" not in overrides}


def test_compiled_layers_train_alike(uninterrupted, tmp_path):
    with torch.compiler.set_stance("force_eager"):  # what is compiled is tested with the model; here, that it is used
        train(tmp_path, "compile_layers=true", "stop_step=2")
    for ours, plain in zip(losses(tmp_path), losses(uninterrupted)[:2], strict=True):
        assert {n: ours[n] for n in PARTS} == pytest.approx({n: plain[n] for n in PARTS}, rel=1e-5)


def test_a_broken_validation_clip_is_listed_and_the_run_goes_on(tmp_path, corpus_rows, capsys):
    from datasets import Audio, Dataset

    broken = {
        **corpus_rows[0],
        "id": "broken",
        "audio": {"bytes": corpus_rows[0]["audio"]["bytes"][:900], "path": None},
    }
    held_out = Dataset.from_list([*corpus_rows, broken]).cast_column("audio", Audio(decode=False))
    held_out.to_parquet(tmp_path / "held_out.parquet")
    train(
        tmp_path / "run", f"validation_data={tmp_path / 'held_out.parquet'}", "validation_split=train", "total_steps=3"
    )
    assert "left out clip broken" in capsys.readouterr().out
    (validation,) = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "validation"]
    assert validation["audio to text recall@10"] >= 0


def test_a_caption_longer_than_the_decoder_is_refused_before_the_run(tmp_path):
    with pytest.raises(
        ValueError, match="max_caption_tokens=500 is more than the decoder's max_position_embeddings=128"
    ):
        train(tmp_path, "max_caption_tokens=500")


def test_a_misspelt_model_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown keys .*hiden_size"):
        train(tmp_path, "model.audio_config.hiden_size=32")


def poison(monkeypatch, bad_steps):
    """From now on the losses of these steps (from 1) are NaN."""
    whole = pretraining_step.scheduled

    def scheduled(config, step, lowered):
        losses = _nan if step + 1 in bad_steps else objectives.pretraining_losses
        monkeypatch.setattr(pretraining_step, "pretraining_losses", losses)
        return whole(config, step, lowered)

    monkeypatch.setattr(pretraining_step, "scheduled", scheduled)


def _nan(*args, **keywords):
    return {name: value * float("nan") for name, value in objectives.pretraining_losses(*args, **keywords).items()}


def test_a_run_that_diverges_stops_and_names_the_clips(tmp_path):
    with pytest.raises(
        TooManySkippedSteps, match=r"the last 2 steps were skipped.*good step is 1.*lower peak_learning"
    ):
        train(tmp_path, "peak_learning_rate=1e30", "gradient_clip=1e30", "warmup_steps=0", "max_skipped_steps=2")
    rows = read_skipped(tmp_path)
    assert [row["step"] for row in rows] == [2, 3] and all(row["batches"][0]["ids"] for row in rows)


def test_a_bad_step_is_skipped_and_a_resumed_run_knows_of_it(tmp_path, monkeypatch, capsys):
    poison(monkeypatch, bad_steps=[2, 4])
    train(tmp_path / "whole")
    assert "2 of 5 steps were skipped" in capsys.readouterr().out
    assert [row["skipped_steps"] for row in losses(tmp_path / "whole")] == [0, 1, 2]
    train(tmp_path / "parts", "stop_step=3")
    train(tmp_path / "parts", resume=True)
    assert_same_end(tmp_path / "parts", tmp_path / "whole")
    assert read_skipped(tmp_path / "parts") == read_skipped(tmp_path / "whole")
    state = json.loads((tmp_path / "parts" / "checkpoints" / "step-00000005" / "state.json").read_text())
    assert state["counters"] == {"skipped_steps": 2, "skipped_in_a_row": 0}


def test_after_too_many_bad_steps_the_last_good_one_goes_on_as_if_nothing_had_been(
    uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as poisoned:
        poison(poisoned, bad_steps=[4, 5])
        with pytest.raises(TooManySkippedSteps, match="good step is 3, in checkpoint .*step-00000003"):
            train(tmp_path, "max_skipped_steps=2", "checkpoint_every=100")
    train(tmp_path, resume=True)
    assert_same_end(tmp_path, uninterrupted)


def test_bad_steps_on_both_sides_of_an_interruption_are_counted_together(tmp_path, monkeypatch):
    poison(monkeypatch, bad_steps=[2, 3])
    train(tmp_path, "max_skipped_steps=2", "stop_step=2")
    with pytest.raises(TooManySkippedSteps, match="good step is 1, in checkpoint .*step-00000002"):  # has its weights
        train(tmp_path, "max_skipped_steps=2", resume=True)


def test_two_micro_batches_train_as_one_batch(uninterrupted, tmp_path):
    train(tmp_path, "accumulation_steps=2")
    for ours, one in zip(losses(tmp_path), losses(uninterrupted), strict=True):
        assert {n: ours[n] for n in PARTS} == pytest.approx({n: one[n] for n in PARTS}, rel=1e-4)
        assert ours["clips"] == one["clips"]


def test_clips_that_cannot_be_read_are_left_out_and_listed(tmp_path, capsys):
    corpus = load_corpus(ROOT / "examples" / "data" / "train.parquet", "train[:4]")
    broken = corpus.map(
        lambda row, i: {"audio": {"bytes": b"noise", "path": None}} if i == 1 else {}, with_indices=True
    )
    broken.to_parquet(tmp_path / "clips.parquet")
    train(tmp_path / "run", f"train_data={tmp_path / 'clips.parquet'}", "train_split=null", "stop_step=1")
    (line,) = (tmp_path / "run" / "skipped_clips.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == corpus[1]["id"]
    assert f"left out clip {corpus[1]['id']}" in capsys.readouterr().out


# -------------------------------------------------------------------------- what held-out numbers decide
DECIDING = [
    "schedule=plateau", "plateau_patience=0", "plateau_factor=0.5", "min_learning_rate=0", "warmup_steps=0",
    "peak_learning_rate=3e-2", "validate_every=1", "checkpoint_every=3", "total_steps=7",
    "select_by=zero-shot score", "zero_shot_tasks=[own-zero-shot, own-zero-shot-multi-label]",
]  # fmt: skip


@pytest.fixture(scope="module")
def own_clips(corpus_rows, tmp_path_factory):
    """Seven real clips with their labels, as a set of the suite "own"."""
    from datasets import Dataset

    path = tmp_path_factory.mktemp("own") / "own.parquet"
    Dataset.from_list(corpus_rows).to_parquet(path)
    return [*DECIDING, f"zero_shot_data={{own: {path}}}"]


@pytest.fixture(scope="module")
def decided(own_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("decided")
    train(folder, *own_clips)
    return folder


def held_out(folder):
    return {row["step"]: row for row in read_metrics(folder) if row["kind"] == "validation"}


def test_held_out_numbers_lower_the_rate_and_choose_the_weights(decided, capsys):
    """What the run did, worked out again from what it wrote."""
    said = held_out(decided)
    tasks = ("own-zero-shot", "own-zero-shot-multi-label")
    assert all(row["zero-shot score"] == pytest.approx(sum(row[task] for task in tasks) / 2) for row in said.values())
    rate, best = 3e-2, float("inf")
    for row in losses(decided):
        assert row["learning_rate"] == pytest.approx(rate), row["step"]
        loss = said[row["step"]]["contrastive loss"]
        rate, best = (rate, loss) if loss < best * (1 - 1e-4) else (rate / 2, best)
    assert 3e-2 / 64 < rate < 3e-2, "it must fall, and not every time"
    first = max(said.values(), key=lambda row: row["zero-shot score"])["step"]  # of equal ones the first
    assert first < 7, "choose other numbers: the last step is no choice"
    (selected,) = (decided / "selected").iterdir()
    assert selected.name == f"step-{first:08d}.safetensors"
    with safe_open(selected, "pt") as kept, safe_open(decided / "model" / "model.safetensors", "pt") as exported:
        name = "logit_scale"
        assert torch.equal(kept.get_tensor(f"slap.{name}"), exported.get_tensor(f"slap.{name}"))


def test_a_run_that_decides_goes_on_to_the_last_bit(decided, own_clips, tmp_path, capsys):
    train(tmp_path, *own_clips, "stop_step=5")
    train(tmp_path, *own_clips, resume=True)
    assert losses(tmp_path) == losses(decided) and held_out(tmp_path) == held_out(decided)
    for file in (next((decided / "selected").iterdir()).relative_to(decided), "model/model.safetensors"):
        assert (tmp_path / file).read_bytes() == (decided / file).read_bytes()
    assert "the best held-out zero-shot score: " in capsys.readouterr().out


def test_tasks_without_their_clips_are_refused_before_the_run(tmp_path):
    with pytest.raises(ValueError, match="clap-esc50: ESC-50: .*--data esc50="):
        train(tmp_path, "zero_shot_tasks=[clap-esc50]")
    with pytest.raises(ValueError, match="names .'heldout-retrieval'., which are not zero-shot tasks"):
        train(tmp_path, "zero_shot_tasks=[heldout-retrieval]")


# -------------------------------------------------------------------------------------------------- the export
def test_the_exported_folder_loads_and_holds_no_teacher(uninterrupted):
    folder = uninterrupted / "model"
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert not any("teacher" in name or "center" in name for name in weights.keys())  # noqa: SIM118
    with safe_open(last_checkpoint(uninterrupted / "checkpoints") / "model.safetensors", "pt") as saved:
        assert torch.equal(model.logit_scale, saved.get_tensor("slap.logit_scale"))
    clip = load_corpus(ROOT / "examples" / "data" / "heldout.parquet")[0]
    waveform = processor.feature_extractor.load(clip["audio"])
    classify = pipeline("zero-shot-audio-classification", model=str(folder))
    assert {answer["label"] for answer in classify(waveform, candidate_labels=["dog", "rain"])} == {"dog", "rain"}


def test_a_run_leaves_its_configuration_a_picture_and_its_validation(uninterrupted):
    left = {"config.yaml", "metrics.jsonl", "losses.png", "health.png", "model", "checkpoints"}
    assert left <= set(os.listdir(uninterrupted))
    (validation,) = [row for row in read_metrics(uninterrupted) if row["kind"] == "validation"]
    assert 0 <= validation["text to audio recall@10"] <= 1 and 0 < validation["chance"] < 1


# ------------------------------------------------------------------------------------------------- it can learn
def test_eight_clips_are_learned_by_heart(tmp_path):
    """Retrieval finds 8 of 8 both ways, and every caption is written word for word."""
    corpus = load_corpus(ROOT / "examples" / "data" / "train.parquet")
    short = [row for row, seconds in enumerate(corpus["duration"]) if seconds < 2]  # none is cropped
    first_of_label = {corpus[row]["label"]: row for row in reversed(short)}
    eight = corpus.select(sorted(first_of_label.values())[:8])
    eight = eight.map(lambda row: {"captions": row["captions"][:1]})
    eight.to_parquet(tmp_path / "eight.parquet")
    folder = train(
        tmp_path / "run", f"train_data={tmp_path / 'eight.parquet'}", "train_split=null",
        "validation_data=null", "batch_seconds=100", "total_steps=80", "warmup_steps=5", "peak_learning_rate=4e-3",
        "checkpoint_every=80", "clips.time_masks=0", "clips.freq_masks=0", "clips.cache_mb=50",
    )  # fmt: skip
    processor = AutoProcessor.from_pretrained(folder)
    sounds = [processor.feature_extractor.load(clip["audio"]) for clip in eight]
    texts, relevant = relevance(eight["captions"])
    inputs = processor(text=texts, audio=sounds, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        out = AutoModel.from_pretrained(folder)(**inputs)
        captioner = SlapForAudioCaptioning.from_pretrained(folder)
        written = captioner.generate(
            inputs.input_features, input_features_mask=inputs.input_features_mask, max_new_tokens=24
        )
    scores = retrieval_scores(out.audio_embeds.numpy(), out.text_embeds.numpy(), relevant)
    assert scores["text_to_audio"]["recall@1"] == scores["audio_to_text"]["recall@1"] == 1.0
    assert processor.batch_decode(written, skip_special_tokens=True) == [clip["captions"][0] for clip in eight]
    assert warnings(tmp_path / "run") == [], "a healthy run is not accused"


# ------------------------------------------------------------------------------------------------ it can collapse
ONLY_MASKED = [
    "contrastive_weight=0", "caption_weight=0", "validation_data=null", "centering=softmax", "clips.cache_mb=50",
    "checkpoint_every=100", "freeze_prototypes_steps=0",
]  # fmt: skip


def warnings(folder):
    return [(row["step"], row["sign"]) for row in read_metrics(folder) if row["kind"] == "warning"]


def test_a_loss_that_falls_to_nothing_is_told_as_the_collapse_it_is(tmp_path, monkeypatch, capsys):
    """Without centring, and with a teacher that is the student, all patches end up with one prototype."""
    monkeypatch.setattr(SoftmaxCentering.__init__, "__defaults__", (1.0,))  # the mean stays where it was, at 0
    train(
        tmp_path, *ONLY_MASKED, "teacher_momentum_start=0", "teacher_momentum_end=0", "peak_learning_rate=1e-2",
        "total_steps=60", "stop_step=26",
    )  # fmt: skip
    assert losses(tmp_path)[-1]["masked"] < 0.2 < 3 < losses(tmp_path)[0]["masked"]
    ((step, sign),) = warnings(tmp_path)
    assert sign == "one prototype" and 12 < step <= 26
    assert f"WARNING after step {step}: masked prediction has collapsed" in capsys.readouterr().out


def test_targets_that_are_not_sharpened_are_told_as_flat(tmp_path):
    train(
        tmp_path,
        *ONLY_MASKED,
        "teacher_temperature_start=2",
        "teacher_temperature_end=2",
        "stop_step=12",
        "total_steps=60",
    )
    assert warnings(tmp_path) == [(12, "flat targets")], "ten lines after the warm-up"
