"""Two processes and one compute the same. The two run once (gloo, on the CPU); every test reads what they left."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from hf_slap import SlapConfig, SlapForPreTraining
from hf_slap.checkpoint import load_checkpoint, save_checkpoint
from hf_slap.distributed import (
    gather_rows,
    gather_with_gradient,
    is_main,
    raise_together,
    rank,
    share_of_mean,
    sum_over_ranks,
    world_size,
)
from hf_slap.modeling.losses_slap import contrastive_loss, sigmoid_contrastive_loss
from hf_slap.objectives import (
    AudioTeacher,
    draw_patch_mask,
    global_contrastive_loss,
    model_inputs,
    pretraining_losses,
)
from hf_slap.optimization import parameter_groups
from hf_slap.prototypes import SoftmaxCentering, sinkhorn_offsets

WEIGHTS = {"contrastive": 1.0, "masked": 1.0, "caption": 0.5}
FRAMES = [48, 16, 80, 32, 64]  # the global batch: rank 0 has three clips, rank 1 two
SHARES = [slice(0, 3), slice(3, 5)]


# ------------------------------------------------------------------------------------------------ one process
def test_on_one_process_nothing_is_gathered_and_every_share_is_one():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(x) is x and torch.equal(gather_rows(x), x)
    assert share_of_mean(3) == 1.0 and (rank(), world_size(), is_main()) == (0, 1, True)
    with pytest.raises(OSError, match="full"):
        raise_together(OSError("full"))
    raise_together(None)


# ---------------------------------------------------------------------------------------------- two processes
def test_rows_of_unequal_ranks_are_gathered_in_order(two):
    for results in two:
        assert results["gathered"].tolist() == [[0], [1], [2], [3], [4]]


def test_the_gather_returns_what_every_rank_says_about_a_row(two):
    # Rank r weighs row j by (r + 1) x j, so row j hears 1 x j + 2 x j.
    assert [row for results in two for row in results["gather_gradient"].flatten().tolist()] == [0, 3, 6, 9, 12]


def test_means_over_unequal_ranks_become_the_mean_over_all(two):
    # Items 0, 1, 2 on rank 0 and 3, 4 on rank 1.
    assert np.mean([results["mean"].item() for results in two]) == pytest.approx(2.0)


def test_a_failure_of_the_first_rank_stops_the_others_too(two):
    assert [bool(results["stopped"]) for results in two] == [True, True]


def test_the_contrastive_loss_and_its_gradients_are_those_of_the_global_batch(two):
    audio, text, scale = pairs()
    groups = torch.tensor([[5], [6], [7], [5], [8]])  # a caption that clips of both ranks share
    expected = contrastive_loss(audio, text, scale.exp(), groups == groups.T)
    expected.backward()
    assert abs(np.mean([results["contrastive"].item() for results in two]) - expected.item()) < 1e-12
    for name, leaf in (("audio", audio), ("text", text)):
        mean = torch.cat([results[f"{name}_gradient"] for results in two]) / 2  # as DDP's mean does to weights
        assert (mean - leaf.grad).abs().max() < 1e-10
    scale_gradient = sum(results["scale_gradient"] for results in two) / 2
    assert abs(scale_gradient.item() - scale.grad.item()) < 1e-10


def test_the_sigmoid_loss_and_its_gradients_are_those_of_the_global_batch(two):
    audio, text, scale = pairs()
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([[5], [6], [7], [5], [8]])
    expected = sigmoid_contrastive_loss(audio, text, scale.exp(), bias, groups == groups.T)
    expected.backward()
    assert abs(np.mean([results["sigmoid"].item() for results in two]) - expected.item()) < 1e-12
    for name, leaf in (("audio", audio), ("text", text)):
        assert (torch.cat([results[f"sigmoid {name}"] for results in two]) / 2 - leaf.grad).abs().max() < 1e-10
    for name, leaf in (("scale", scale), ("bias", bias)):
        assert abs(sum(results[f"sigmoid {name}"].item() for results in two) / 2 - leaf.grad.item()) < 1e-10


def test_sinkhorn_normalises_over_the_patches_of_all_ranks(two):
    expected = sinkhorn_offsets(*patches_and_prototypes(), 0.05)
    for results in two:
        assert (results["sinkhorn"] - expected).abs().max() < 1e-12


def test_a_rank_without_patches_takes_part_in_sinkhorn_and_centring(two):
    features, prototypes = patches_and_prototypes()
    centering = SoftmaxCentering(7).double()
    centering(features[:8], prototypes, 0.05)
    for results in two:
        assert (results["lonely sinkhorn"] - sinkhorn_offsets(features[:8], prototypes, 0.05)).abs().max() < 1e-12
        assert torch.allclose(results["lonely center"], centering.center, atol=1e-12)


def test_centring_follows_the_mean_over_all_ranks(two):
    centering = SoftmaxCentering(7).double()
    centering(*patches_and_prototypes(), 0.05)
    for results in two:
        assert torch.allclose(results["center"], centering.center, atol=1e-12)


def test_all_three_losses_of_the_model_have_the_gradients_of_one_process(two):
    model = tiny_model()
    batch = global_batch()
    losses = all_losses(model, AudioTeacher(model), batch)
    losses["total"].backward()
    for name, loss in losses.items():
        assert abs(np.mean([results[f"loss {name}"].item() for results in two]) - loss.item()) < 1e-6, name
    for name, parameter in model.named_parameters():
        for results in two:
            difference = (results[f"gradient {name}"] - parameter.grad).abs().max()
            assert difference < 1e-6 if name.endswith("logit_scale") else difference < 1e-10, name


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_checkpoint_of_two_processes_goes_on_in_one(two, two_folder, engine):
    model = tiny_model(seed=1)
    optimizer = adamw(model)
    assert load_checkpoint(two_folder / engine / "step-00000001", model, optimizer)["step"] == 1
    step(model, optimizer)
    for results in two:
        for name, value in model.state_dict().items():
            assert (results[f"{engine} {name}"] - value).abs().max() < 1e-12, name


# ---------------------------------------------------------------------------------------------------- helpers
@pytest.fixture(scope="module")
def two_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.fixture(scope="module")
def two(two_folder):
    return [load_file(two_folder / f"rank{rank}.safetensors") for rank in (0, 1)]


def worker(rank: int, folder: str) -> None:
    """What each of the two processes does; it leaves its results in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    share = SHARES[rank]
    results = {}

    rows = torch.arange(5, dtype=torch.float64)[share, None].requires_grad_()
    everyone = gather_with_gradient(rows)
    (everyone.squeeze(1) * (rank + 1) * torch.arange(5)).sum().backward()
    results |= {"gathered": everyone.detach(), "gather_gradient": rows.grad}
    items = torch.arange(5, dtype=torch.float64)[share]
    results["mean"] = items.mean() * share_of_mean(len(items))

    try:
        raise_together(OSError("disk full") if rank == 0 else None)
    except (OSError, RuntimeError):
        results["stopped"] = torch.tensor(True)

    audio, text, scale = pairs()
    audio, text = (x.detach()[share].clone().requires_grad_() for x in (audio, text))
    loss = global_contrastive_loss(audio, text, scale.exp(), torch.tensor([[5], [6], [7], [5], [8]])[share])
    loss.backward()
    results |= {"contrastive": loss.detach(), "scale_gradient": scale.grad}
    results |= {"audio_gradient": audio.grad, "text_gradient": text.grad}

    audio, text, scale = pairs()
    audio, text = (x.detach()[share].clone().requires_grad_() for x in (audio, text))
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    groups = torch.tensor([[5], [6], [7], [5], [8]])[share]
    loss = global_contrastive_loss(audio, text, scale.exp(), groups, bias, "sigmoid")
    loss.backward()
    gradients = {"audio": audio.grad, "text": text.grad, "scale": scale.grad, "bias": bias.grad}
    results |= {"sigmoid": loss.detach(), **{f"sigmoid {name}": gradient for name, gradient in gradients.items()}}

    for name, end in (("", None), ("lonely ", 8)):
        features, prototypes = patches_and_prototypes()
        features = features[slice(0, 8) if rank == 0 else slice(8, end)]
        centering = SoftmaxCentering(7).double()
        centering(features, prototypes, 0.05)
        results |= {f"{name}sinkhorn": sinkhorn_offsets(features, prototypes, 0.05), f"{name}center": centering.center}

    model = tiny_model()
    teacher, ddp = AudioTeacher(model), DistributedDataParallel(model)
    losses = all_losses(ddp, teacher, part_of(global_batch(), share))
    losses["total"].backward()
    results |= {f"loss {name}": loss.detach() for name, loss in losses.items()}
    results |= {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}

    for engine in ("ddp", "fsdp"):
        model = tiny_model()
        wrapped = DistributedDataParallel(model) if engine == "ddp" else sharded(model)
        optimizer = adamw(wrapped)
        step(wrapped, optimizer)
        save_checkpoint(os.path.join(folder, engine), 1, wrapped, optimizer)
        load_checkpoint(os.path.join(folder, engine, "step-00000001"), wrapped, optimizer)
        step(wrapped, optimizer)
        for name, value in model.state_dict().items():
            value = value.full_tensor() if hasattr(value, "full_tensor") else value
            results[f"{engine} {name}"] = value.detach()

    save_file({k: v.detach().clone().contiguous() for k, v in results.items()}, f"{folder}/rank{rank}.safetensors")
    sum_over_ranks(torch.zeros(1))  # nobody leaves while the other still talks
    dist.destroy_process_group()


def sharded(model):
    for layer in model.slap.audio_model.layers:
        fully_shard(layer)
    return fully_shard(model)


def adamw(model):
    return torch.optim.AdamW(parameter_groups(model, 0.05), lr=0.01)


def step(model, optimizer):
    """One step whose gradient does not depend on how the batch is split."""
    batch = global_batch()
    outputs = model(**model_inputs(batch, WEIGHTS))
    (outputs.audio_embeds * outputs.text_embeds).sum().add(
        outputs.caption_logits.square().mean()
        + (outputs.prototype_features @ outputs.prototypes.T).mean()
        + 0.0 * outputs.logit_scale
    ).backward()
    optimizer.step()
    optimizer.zero_grad()


def tiny_model(seed=0):
    torch.manual_seed(seed)
    vocabulary = {"vocab_size": 23, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = SlapConfig(
        audio_config={"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24},
        text_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
            "cls_token_id": 1, "sep_token_id": 2, **vocabulary,
        },
        decoder_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
            "vocab_size": 23,
        },
        projection_dim=8, num_prototypes=7, prototype_hidden_size=16, prototype_bottleneck_size=8,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return SlapForPreTraining(config).double()


def global_batch():
    generator = torch.Generator().manual_seed(7)
    rng = np.random.default_rng(7)
    masks = [draw_patch_mask(frames // 16, 4, 0.5, rng) for frames in FRAMES]
    features = torch.randn(sum(FRAMES), 64, generator=generator, dtype=torch.float64)
    words = torch.randint(3, 23, (5, 6), generator=generator)
    labels = words.clone()
    labels[1, 3:] = labels[4, 1:] = -100  # captions of unequal length, so ranks hold unequal numbers of words
    return {
        "input_features": features,
        "teacher_features": features,
        "clip_frames": FRAMES,
        "clip_tokens": [frames // 4 for frames in FRAMES],
        "patch_mask": torch.from_numpy(np.concatenate(masks)),
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "labels": labels,
        "groups": torch.tensor([[5], [6], [7], [5], [8]]),
    }


def part_of(batch, share):
    frame_ends = np.cumsum([0, *batch["clip_frames"]])
    frames = slice(int(frame_ends[share.start]), int(frame_ends[share.stop]))
    tokens = slice(frames.start // 4, frames.stop // 4)
    places = {"input_features": frames, "teacher_features": frames, "patch_mask": tokens}
    return {name: value[places.get(name, share)] for name, value in batch.items()}


def all_losses(model, teacher, batch):
    features = teacher(batch["teacher_features"], batch["clip_frames"], batch["patch_mask"])
    targets = teacher.targets(features, 0.05)
    return pretraining_losses(model(**model_inputs(batch, WEIGHTS)), batch, WEIGHTS, targets)


def pairs():
    generator = torch.Generator().manual_seed(3)
    audio, text = (
        torch.nn.functional.normalize(torch.randn(5, 4, generator=generator, dtype=torch.float64), dim=-1)
        for _ in range(2)
    )
    return audio.requires_grad_(), text.requires_grad_(), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)


def patches_and_prototypes():
    generator = torch.Generator().manual_seed(4)
    both = torch.nn.functional.normalize(torch.randn(20, 5, generator=generator, dtype=torch.float64), dim=-1)
    return both[:13], both[13:]
