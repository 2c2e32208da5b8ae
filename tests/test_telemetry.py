"""What a step tells of itself: worked by hand, and against the losses it takes apart."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from hf_slap import SlapForPreTraining, telemetry
from hf_slap.data import ClipRef, PretrainCollator, PretrainDataset, load_corpus
from hf_slap.objectives import AudioTeacher, draw_patch_mask, model_inputs, pretraining_losses
from hf_slap.telemetry import (
    Speed,
    StepTelemetry,
    duration_range,
    effective_rank,
    embedding_health,
    false_negatives,
)

PARTS = ("contrastive", "masked", "caption")
WEIGHTS = dict.fromkeys(PARTS, 1.0)
HELD_OUT = Path(__file__).parents[1] / "examples" / "data" / "heldout.parquet"


@pytest.fixture(scope="module")
def batch(tiny_processor):
    corpus = load_corpus(HELD_OUT, "train[:6]")
    clips = PretrainDataset(corpus, tiny_processor.feature_extractor, draw_patch_mask)
    return PretrainCollator(tiny_processor.tokenizer, 19)([clips[ClipRef(0, row, row)] for row in range(6)])


@pytest.fixture(scope="module")
def step(batch, tiny_config):
    torch.manual_seed(0)
    model = SlapForPreTraining(tiny_config).eval()
    teacher = AudioTeacher(model)
    targets = teacher.targets(teacher(batch["teacher_features"], batch["clip_frames"], batch["patch_mask"]), 0.05)
    with torch.no_grad():
        return model(**model_inputs(batch, WEIGHTS)), targets


@pytest.fixture(scope="module")
def told(batch, step):
    outputs, targets = step
    collected = StepTelemetry()
    collected.targets([batch], targets)
    collected.clips(batch, outputs, targets, label_smoothing=0.1)
    collected.pairs([batch], outputs.audio_embeds, outputs.text_embeds, outputs.logit_scale)
    return collected.values()


# ------------------------------------------------------------------------------------------------ costs of the clips
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("by", ["source", "seconds"])
def test_the_costs_of_the_bins_add_up_to_the_loss(told, batch, step, part, by):
    losses = pretraining_losses(step[0], batch, WEIGHTS, step[1], label_smoothing=0.1)
    assert told[part] == pytest.approx(losses[part].item(), rel=1e-5)
    costs = {name.split("/", 2)[2]: value for name, value in told.items() if name.startswith(f"{part}/{by}/")}
    weights = bin_weights(batch, part, by)
    assert set(costs) == set(weights) and len(costs) > 1
    mean = sum(costs[name] * weights[name] for name in costs) / sum(weights.values())
    assert mean == pytest.approx(losses[part].item(), rel=1e-5)


def bin_weights(batch, part, by):
    """Clips of each bin, or words for captions."""
    words = (batch["labels"] != -100).sum(1).tolist() if part == "caption" else [1] * len(batch["ids"])
    places = batch["sources"] if by == "source" else [duration_range(n / 100) for n in batch["clip_frames"]]
    return {name: sum(w for w, p in zip(words, places, strict=True) if p == name) for name in places}


def test_the_clips_of_a_source_are_counted(told, batch):
    assert all(batch["sources"])
    for source in set(batch["sources"]):
        assert told[f"clips/source/{source}"] == batch["sources"].count(source)


def test_one_clip_of_a_source_costs_what_it_costs_alone(told, batch, step):
    """The caption loss of a clip does not depend on its batch mates."""
    source = next(name for name in batch["sources"] if batch["sources"].count(name) == 1)
    row = batch["sources"].index(source)
    loss = torch.nn.functional.cross_entropy(
        step[0].caption_logits[row], batch["labels"][row], ignore_index=-100, label_smoothing=0.1
    )
    assert told[f"caption/source/{source}"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_cost_of_a_clip_under_the_sigmoid_loss_is_its_share(batch):
    audio, text = normalize(torch.randn(6, 5), dim=-1), normalize(torch.randn(6, 5), dim=-1)
    collected = StepTelemetry()
    collected.pairs([batch], audio, text, torch.tensor(3.0), torch.tensor(-2.0), "sigmoid")
    outputs = SimpleNamespace(
        audio_embeds=audio, text_embeds=text, logit_scale=torch.tensor(3.0), logit_bias=torch.tensor(-2.0)
    )
    loss = pretraining_losses(outputs, batch, {**WEIGHTS, "masked": 0, "caption": 0})["contrastive"]
    values = collected.values()
    assert values["contrastive"] == pytest.approx(loss.item(), rel=1e-5)
    assert (values["logit_scale"], values["logit_bias"]) == (3.0, -2.0)


def test_micro_batches_tell_what_the_whole_step_tells(told, batch, step, tiny_processor):
    outputs, targets = step
    collected = StepTelemetry()
    parts = [part_of(batch, slice(0, 2)), part_of(batch, slice(2, 6))]
    collected.targets(parts, targets)
    first = int(parts[0]["patch_mask"].sum())
    for part, rows, masked in zip(
        parts, (slice(0, 2), slice(2, 6)), (slice(0, first), slice(first, None)), strict=True
    ):
        some = SimpleNamespace(
            prototype_features=outputs.prototype_features[masked],
            prototypes=outputs.prototypes,
            caption_logits=outputs.caption_logits[rows],
        )
        collected.clips(part, some, targets[masked], label_smoothing=0.1)
    collected.clips({"ids": []}, None)  # a stand-in has nothing to say
    collected.pairs(parts, outputs.audio_embeds, outputs.text_embeds, outputs.logit_scale)
    values = collected.values()
    assert values.keys() == told.keys()
    for name in told.keys() - {"padding_share"}:  # padding depends on what is padded together
        assert values[name] == pytest.approx(told[name], rel=1e-4, abs=1e-6), name


def part_of(batch, rows):
    tokens = slice(sum(batch["clip_tokens"][: rows.start]), sum(batch["clip_tokens"][: rows.stop]))
    per_clip = ("clip_frames", "clip_tokens", "ids", "sources", "labels", "groups")
    seconds = sum(batch["clip_frames"][rows]) / 100
    return {
        **{name: batch[name][rows] for name in per_clip},
        "patch_mask": batch["patch_mask"][tokens],
        "audio_seconds": seconds,
    }


def test_padding_that_packing_saves_is_a_share_of_the_padded_batch(told, batch):
    frames = batch["clip_frames"]
    assert told["padding_share"] == pytest.approx(1 - sum(frames) / (6 * max(frames)))


def test_a_duration_falls_into_one_range():
    assert [duration_range(s) for s in (0.2, 1.0, 1.99, 5, 19.9, 20, 31)] == [
        "under 1", "1 to 2", "1 to 2", "5 to 10", "10 to 20", "20 or more", "20 or more",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------- embeddings
def test_the_effective_rank_counts_directions():
    assert effective_rank(torch.eye(5)[:3]) == pytest.approx(3)
    assert effective_rank(torch.ones(40, 7)) == pytest.approx(1)
    unequal = torch.tensor([[3.0, 0, 0], [0, 1, 0]])  # shares 3/4 and 1/4
    assert effective_rank(unequal) == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    assert math.isnan(effective_rank(torch.tensor([[math.nan, 1.0]]))), "a bad step is told as such, not by a crash"


def test_rounding_is_no_direction():
    rows = torch.randn(20, 1, dtype=torch.float64) @ torch.randn(1, 300, dtype=torch.float64)
    assert effective_rank(rows) == pytest.approx(1, abs=1e-4)


def test_the_gap_is_the_distance_of_the_centroids():
    audio = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    text = torch.tensor([[0.0, 0, 1], [0, 0, 1]])
    assert embedding_health(audio, text)["modality_gap"] == pytest.approx(math.sqrt(0.25 + 0.25 + 1))
    assert embedding_health(audio, audio.flip(0))["modality_gap"] == 0


def test_pairs_that_are_no_negatives_are_counted_both_ways():
    found = false_negatives(torch.tensor([[1, 4], [2, 7], [3, 4], [3, 4]]))
    assert found == {"false_negatives": 6, "false_negative_share": 0.5}
    assert false_negatives(torch.tensor([[1, 4]]))["false_negative_share"] == 0
    # the first and the second are one clip, the second and the third have one caption
    assert false_negatives(torch.tensor([[1, 4], [1, 5], [2, 5], [3, 6]]))["false_negatives"] == 4


# ------------------------------------------------------------------------------------------------------- speed
def test_speed_counts_what_comes_and_the_time_it_is_waited_for(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 6.0, 7.0, 11.0])  # start; asked, came; asked, came; told
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(clock, 11.0))
    speed = Speed(torch.device("cpu"), lambda batch: 5.0 * len(batch["ids"]), rate=10.0)
    batches = [{"audio_seconds": 8.0, "ids": ["a", "b"]}, {"audio_seconds": 3.0, "ids": ["c"]}]
    watched = speed.watch(batches)
    assert [next(watched), next(watched)] == batches
    values = speed.values()
    assert values.pop("memory_gb") > 0.01
    assert values == {
        "audio_seconds_per_second": 1.0,
        "clips_per_second": pytest.approx(3 / 11),
        "utilisation": pytest.approx(15 / 110),
        "waiting_share": pytest.approx((3 + 1) / 11),
    }
    assert list(watched) == []
