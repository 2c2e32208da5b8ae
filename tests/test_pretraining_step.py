"""However a step is spread over processes and micro-batches, it is the same step; and a bad one changes nothing."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from datasets import Audio
from safetensors.torch import load_file, save_file

from hf_slap import SlapConfig, SlapFeatureExtractor, SlapForPreTraining
from hf_slap.data import ClipSettings, PretrainCollator, PretrainDataset, load_corpus, run_batches, train_tokenizer
from hf_slap.distributed import sum_over_ranks
from hf_slap.engine import start_engine, wrap
from hf_slap.gradient_cache import ContrastiveCache
from hf_slap.modeling.losses_slap import contrastive_loss, sigmoid_contrastive_loss
from hf_slap.objectives import AudioTeacher, draw_patch_mask, keep_trainable, model_inputs, same_group
from hf_slap.optimization import parameter_groups
from hf_slap.pretraining_step import pretraining_step
from hf_slap.telemetry import StepTelemetry
from hf_slap.training_config import TrainConfig

TRAIN = os.path.join(os.path.dirname(__file__), "..", "examples", "data", "train.parquet")
STEPS, BAD_STEP = 20, 6
# processes: (micro-batches, activation checkpointing) of the runs
RUNS = {1: [(1, False), (3, True)], 2: [(1, False), (2, True)], 4: [(1, True), (2, False)]}
NAMES = [(world, *run) for world, runs in RUNS.items() for run in runs]


# --------------------------------------------------------------------------------------- processes, micro-batches
@pytest.mark.parametrize(("world", "accumulation", "checkpointing"), NAMES[1:])
def test_losses_gradients_and_weights_do_not_depend_on_how_a_step_is_spread(runs, world, accumulation, checkpointing):
    alone, ours = runs[NAMES[0]], runs[world, accumulation, checkpointing]
    assert (ours["losses"] - alone["losses"]).abs().max() < 1e-6
    assert ((ours["norms"] - alone["norms"]).abs() / alone["norms"].abs()).nan_to_num().max() < 1e-6
    for name in (name for name in alone if name.startswith(("weight", "teacher"))):
        assert (ours[name] - alone[name]).abs().max() < 1e-6, name


def test_what_a_step_tells_is_of_all_ranks_and_micro_batches(runs):
    """That all runs tell the same is tested above; here, that it is all there and true."""
    told = {n.removeprefix("told "): v.item() for n, v in runs[max(runs)].items() if n.startswith("told ")}
    for part, loss in zip(("contrastive", "masked", "caption"), runs[NAMES[0]]["losses"][-1].tolist(), strict=False):
        assert told[part] == pytest.approx(loss, abs=1e-6)
        assert len([name for name in told if name.startswith(f"{part}/seconds/")]) > 1
    assert told["audio_rank"] > 1 and told["patch_rank"] > 1 and 0 < told["target_information"] < 1


def test_the_runs_learn_and_all_losses_take_part(runs):
    losses = runs[NAMES[0]]["losses"]
    assert losses.shape == (STEPS - 1, 4) and (losses.median(0).values > 0.5).all()
    assert losses[-4:, 3].mean() < losses[:4, 3].mean()


def test_there_were_ranks_and_micro_batches_without_a_usable_clip(runs):
    assert runs[NAMES[0]]["empty"] == 0
    assert all(results["empty"] > 0 for name, results in runs.items() if name != NAMES[0])


def test_a_step_that_is_not_finite_on_one_rank_is_skipped_on_all_and_changes_nothing(runs):
    for name, results in runs.items():
        assert results["skipped"].tolist() == [BAD_STEP], name
        assert results["changed by the bad step"] == 0, name
        listed, alone = results["ids of the bad step"], runs[NAMES[0]]["ids of the bad step"]
        assert torch.equal(listed, alone), "the clips of all ranks are listed"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    # One process imports the libraries and forks the others.
    torch.multiprocessing.set_forkserver_preload(["hf_slap.pretraining_step", "hf_slap.engine", "datasets", "peft"])
    for world in RUNS:
        torch.multiprocessing.start_processes(worker, (world, str(folder)), nprocs=world, start_method="forkserver")
    return {(world, *run): load_file(folder / f"{world} {run}.safetensors") for world, *run in NAMES}


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "HF_HUB_OFFLINE": "1"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}  # not used: they meet in a file
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    accelerator = start_engine(bf16=False)
    data = Data()
    for accumulation, checkpointing in RUNS[world]:
        results = run(accelerator, data, rank, world, accumulation, checkpointing)
        if rank == 0:
            save_file(results, f"{folder}/{world} {[accumulation, checkpointing]}.safetensors")
    if world > 1:
        sum_over_ranks(torch.zeros(1))  # nobody leaves while the other still talks
        dist.destroy_process_group()


def run(accelerator, data, rank, world, accumulation, checkpointing) -> dict[str, torch.Tensor]:
    """Twenty steps of `examples/pretrain.py` in float64; one of them meets a clip with a NaN."""
    config = TrainConfig(
        train_data="see Data", total_steps=STEPS, warmup_steps=3, freeze_prototypes_steps=2, peak_learning_rate=3e-3,
        accumulation_steps=accumulation, label_smoothing=0.1, gradient_clip=30.0,
    )  # fmt: skip
    model = tiny_model(data.tokenizer)
    keep_trainable(model, config.loss_weights)
    if checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    teacher = AudioTeacher(model)
    wrapped = wrap(accelerator, model, teacher)
    optimizer = accelerator.prepare_optimizer(
        torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=1.0, betas=(0.9, 0.98), eps=config.epsilon)
    )
    refs = run_batches(data.durations, 12.0, 0, 0, STEPS, rank, world, 2.0, accumulation=accumulation)
    losses, norms, empty, skipped, results = [], [], 0, [], {}
    for step in range(STEPS):
        batches = [data.batch(next(refs)) for _ in range(accumulation)]
        empty += sum(not batch["ids"] for batch in batches)
        if step == BAD_STEP:
            before = snapshot(model, teacher, optimizer)
            if rank == world - 1:  # one number of one clip, in the last micro-batch of one rank
                batches[-1]["input_features"][3, 5] = torch.nan
        telemetry = StepTelemetry() if step == STEPS - 1 else None
        result = pretraining_step(accelerator, wrapped, optimizer, teacher, batches, step, config, telemetry)
        if result.skipped:
            skipped.append(step)
            changed = sum((a != b).sum() for a, b in zip(before, snapshot(model, teacher, optimizer), strict=True))
            ids = sorted(name for batch in result.batches for name in batch["ids"])
            results |= {"changed by the bad step": changed, "ids of the bad step": numbers(ids)}
        else:
            losses.append([result.losses[name] for name in ("contrastive", "masked", "caption", "total")])
        norms.append(result.gradient_norm)
    assert next(refs, None) is None
    results |= {"losses": torch.tensor(losses).double(), "norms": torch.tensor(norms).double()}
    told = telemetry.values()
    del told["padding_share"]  # depends on what would be padded together
    results |= {f"told {name}": torch.tensor(value, dtype=torch.float64) for name, value in told.items()}
    results |= {"empty": sum_over_ranks(torch.tensor(empty)), "skipped": torch.tensor(skipped)}
    results |= {f"weight {name}": value.detach().clone() for name, value in model.named_parameters()}
    return results | {f"teacher {name}": value.clone() for name, value in teacher.named_parameters()}


# ------------------------------------------------------------------------------------------------ the cache alone
@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_with_dropout_the_cached_gradient_is_that_of_keeping_all_activations(kind):
    data = Data()
    refs = run_batches(data.durations, 12.0, 0, 0, 1, max_seconds=2.0, accumulation=3)
    batches = [data.batch(part) for part in refs]
    weights = {"contrastive": 1.0, "masked": 0.0, "caption": 0.0}
    model = tiny_model(data.tokenizer, kind, mlp_dropout=0.3)
    keep_trainable(model, weights)

    torch.manual_seed(1)
    kept = [model(**model_inputs(batch, weights)) for batch in batches]
    groups = torch.cat([batch["groups"] for batch in batches])
    audio, text = (torch.cat([getattr(x, name) for x in kept]) for name in ("audio_embeds", "text_embeds"))
    scale, ignore = kept[0].logit_scale, same_group(groups, groups)
    if kind == "softmax":
        loss = contrastive_loss(audio, text, scale, ignore)
    else:
        loss = sigmoid_contrastive_loss(audio, text, scale, kept[0].logit_bias, ignore)
    wanted = torch.autograd.grad(loss, trained := [p for p in model.parameters() if p.requires_grad])

    torch.manual_seed(1)
    cache = ContrastiveCache(model, batches, shared_masked_pass=False)
    assert cache.loss == pytest.approx(loss.item(), abs=1e-12)
    for rewinds in (True, False):
        model.zero_grad()
        for number, batch in enumerate(batches):
            if rewinds:
                cache.rewind(number)
            cache.surrogate(number, model(**model_inputs(batch, weights))).backward()
        difference = max((p.grad - gradient).abs().max() for p, gradient in zip(trained, wanted, strict=True))
        assert difference < 1e-12 if rewinds else difference > 1e-3


# ---------------------------------------------------------------------------------------------------- helpers
class Data:
    """Sixty real clips of up to two seconds; 24 of them broken, so that some ranks are left without any."""

    def __init__(self):
        corpus = load_corpus(TRAIN)
        corpus = corpus.select([row for row, seconds in enumerate(corpus["duration"]) if seconds < 2][:60])
        self.tokenizer = train_tokenizer([texts[0] for texts in corpus["captions"]], vocab_size=300, max_length=24)
        self.durations = corpus["duration"][:]
        audio = [{"bytes": b"noise", "path": None} if row % 5 < 2 else a for row, a in enumerate(corpus["audio"])]
        corpus = corpus.remove_columns("audio").add_column("audio", audio).cast_column("audio", Audio(decode=False))
        settings = ClipSettings(max_seconds=2.0, cache_mb=100)
        self.clips = PretrainDataset(corpus, SlapFeatureExtractor(), draw_patch_mask, settings)
        self.collate = PretrainCollator(self.tokenizer, 24, stand_in=self.clips.silence)

    def batch(self, refs) -> dict:
        batch = self.collate([self.clips[ref] for ref in refs])
        return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}


def tiny_model(tokenizer, kind="softmax", **of_text) -> SlapForPreTraining:
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "initializer_range": 0.2}
    text = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id, **special, **of_text}
    config = SlapConfig(
        audio_config={**sizes, "num_hidden_layers": 1},
        text_config={**sizes, "num_hidden_layers": 1, "vocab_size": len(tokenizer), **text},
        decoder_config={**sizes, "num_hidden_layers": 1, "vocab_size": len(tokenizer)},
        projection_dim=8, num_prototypes=31, prototype_hidden_size=16, prototype_bottleneck_size=8,
        initializer_range=0.2, contrastive_kind=kind, **special,
    )  # fmt: skip
    return SlapForPreTraining(config).double().train()


def snapshot(model, teacher, optimizer) -> list[torch.Tensor]:
    moments = [x for values in optimizer.state.values() for x in values.values()]
    tensors = [*model.parameters(), *teacher.parameters(), *teacher.buffers(), *moments, torch.get_rng_state()]
    return [tensor.detach().clone() for tensor in tensors]


def numbers(ids: list[str]) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(" ".join(ids).encode(), dtype=np.uint8).copy())
