"""DDP and FSDP2 train alike, and go on from each other's checkpoints. Two processes run once (gloo, on the CPU) and train
the small model of tests/examples/test_pretrain.py again and again; every test reads what they left."""

import contextlib
import json
import os
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator, FullyShardedDataParallelPlugin, ParallelismConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file
from transformers import AutoModel

from hf_slap import pretraining_step
from hf_slap.engine import start_engine
from hf_slap.modeling.modeling_slap import SlapAudioMLP
from hf_slap.objectives import AudioTeacher
from hf_slap.training_log import read_metrics

sys.path.insert(0, str(Path(__file__).parent / "examples"))
from processes import free_ports, run_ranks  # noqa: E402
from test_pretrain import PARTS, losses, train  # noqa: E402

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"
RUN = ["total_steps=4", "checkpoint_every=1", "keep_checkpoints=9"]


# ----------------------------------------------------------------------------------------------- what they computed
def test_fsdp2_has_the_losses_of_ddp(two):
    # Not bit for bit: DDP adds gradients up in buckets, FSDP2 layer by layer. Seen: 1e-6.
    assert_alike(trail(two / "fsdp2"), trail(two / "ddp"))
    validations = [[row for row in read_metrics(two / run) if row["kind"] == "validation"] for run in ("fsdp2", "ddp")]
    for sharded, whole in zip(*validations, strict=True):
        assert sharded.pop("kind") == whole.pop("kind") and sharded == pytest.approx(whole, rel=1e-4)


def test_fsdp2_with_accumulation_and_recomputed_activations_has_them_too(two):
    assert_alike(trail(two / "pieces"), trail(two / "ddp")[:2])


def test_weights_moments_and_teacher_follow_the_same_path(two):
    for name in ("model", "optimizer", "teacher"):
        sharded, whole = (load_file(checkpoint(two / run, 4) / f"{name}.safetensors") for run in ("fsdp2", "ddp"))
        assert sharded.keys() == whole.keys()
        for key, value in whole.items():
            assert torch.allclose(sharded[key], value, rtol=1e-4, atol=1e-6), (name, key)


def test_each_rank_held_a_half(two):
    for rank in (0, 1):
        held = json.loads((two / f"fsdp2 rank {rank}.json").read_text())["held"]
        assert held["student"] == pytest.approx(held["whole student"] / 2, rel=0.05)
        assert held["teacher"] == pytest.approx(held["whole teacher"] / 2, rel=0.05)


def test_a_sharded_run_exports_the_folder_of_an_unsharded_one(two):
    sharded, whole = two / "fsdp2" / "model", two / "ddp" / "model"
    names = {file.relative_to(whole) for file in whole.rglob("*")}
    assert {file.relative_to(sharded) for file in sharded.rglob("*")} == names
    for name in names - {Path("model.safetensors")}:
        assert (sharded / name).is_dir() or (sharded / name).read_bytes() == (whole / name).read_bytes(), name
    ours, theirs = load_file(sharded / "model.safetensors"), load_file(whole / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.allclose(ours[name], value, rtol=1e-4, atol=1e-6), name
    assert torch.equal(AutoModel.from_pretrained(sharded).logit_scale, ours["slap.logit_scale"])


# ------------------------------------------------------------------------------------------------------ going on
@pytest.mark.parametrize("run", ["ddp to fsdp2", "fsdp2 to ddp"])
def test_a_run_goes_on_under_the_other_engine(two, run):
    assert_alike(trail(two / run), trail(two / "ddp")[:3])


def test_a_sharded_run_goes_on_to_the_last_bit(two):
    assert trail(two / "fsdp2 again") == trail(two / "fsdp2")[:3]
    for name in ("model", "optimizer", "teacher"):
        ours, theirs = (load_file(checkpoint(two / run, 3) / f"{name}.safetensors") for run in ("fsdp2 again", "fsdp2"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_two_processes_then_one_then_two_are_as_two_all_along(two):
    assert_alike(trail(two / "2 to 1 to 2"), trail(two / "ddp")[:3])


# -------------------------------------------------------------------------------------------------------- bfloat16
@pytest.mark.parametrize("run", ["ddp bf16", "fsdp2 bf16"])
def test_under_bf16_only_the_towers_compute_in_it(two, run):
    for rank in (0, 1):
        kinds = json.loads((two / f"{run} rank {rank}.json").read_text())["kinds"]
        assert kinds.pop("layer") == ["torch.bfloat16"]
        assert kinds == {name: ["torch.float32"] for name in ("features", "prototypes", "offsets", "losses")}
    for name in ("model", "optimizer", "teacher"):
        saved = load_file(checkpoint(two / run, 2) / f"{name}.safetensors")
        assert {value.dtype for value in saved.values()} == {torch.float32}
    assert_alike(trail(two / run), trail(two / "ddp")[:2], rel=0.05)


# -------------------------------------------------------------------------------------------------- what is launched
@pytest.mark.parametrize("name", ["ddp", "ddp_4_nodes", "fsdp2", "fsdp2_4_nodes"])
def test_accelerate_reads_the_launch_files_as_they_are_meant(name, monkeypatch):
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(LAUNCH / f"{name}.yaml"), "--machine_rank=1", "--main_process_ip=10.0.0.1", "pretrain.py"]
    )
    arguments, *_ = _validate_launch_command(arguments)
    nodes = 4 if "4_nodes" in name else 1
    assert (arguments.num_machines, arguments.num_processes) == (nodes, 8 * nodes)
    assert arguments.use_fsdp == name.startswith("fsdp2") and arguments.multi_gpu == name.startswith("ddp")
    for variable, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(variable, value)
    assert arguments.nproc_per_node == "8" and (nodes == 1 or arguments.node_rank == 1)
    if arguments.use_fsdp:
        plugin = FullyShardedDataParallelPlugin()
        assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.activation_checkpointing) == (2, True, False)
        assert not plugin.cpu_ram_efficient_loading
    if name == "fsdp2_4_nodes":
        layout = ParallelismConfig()
        assert (layout.dp_replicate_size, layout.dp_shard_size, layout.non_data_parallel_size) == (4, 8, 1)


def test_the_launch_files_name_no_key_that_accelerate_would_pass_over():
    known = vars(launch_command_parser().parse_args(["pretrain.py"]))
    for file in LAUNCH.glob("*.yaml"):
        values = yaml.safe_load(file.read_text())
        flat = {**values.pop("fsdp_config", {}), **values.pop("parallelism_config", {}), **values}
        assert flat.keys() - known.keys() <= {"compute_environment", "distributed_type"}, file.name


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"DeepSpeed is not served; .* DDP \(--multi_gpu\) and FSDP2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp_version 1 is not served"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "gradient_ch"),
    ],
)
def test_other_engines_are_refused_with_what_is_served(variables, message, monkeypatch):
    AcceleratorState._reset_state(reset_partial_state=True)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("hf_slap.engine.Accelerator", lambda **keywords: fake_accelerator())
    with pytest.raises(NotImplementedError, match=message):
        start_engine(bf16=False)
    AcceleratorState._reset_state(reset_partial_state=True)


# --------------------------------------------------------------------------------------------------------- helpers
def fake_accelerator() -> Accelerator:
    """Of one process that believes to be one of several."""
    accelerator = Accelerator(cpu=True)
    accelerator.state.distributed_type = "MULTI_CPU"
    return accelerator


def trail(folder):
    return [{name: row[name] for name in (*PARTS, "clips")} for row in losses(folder)]


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


def assert_alike(ours, theirs, rel=1e-4):
    assert len(ours) == len(theirs)
    for step, (mine, other) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert mine == pytest.approx(other, rel=rel), f"step {step}"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    run_ranks(2, all_runs, folder, free_ports(12))
    return folder


def all_runs(folder: Path, ports: list[int]) -> None:
    """What each of the two ranks does."""
    rank = os.environ["RANK"]

    def run(name, engine, *overrides, resume=False):
        use(engine)
        os.environ["MASTER_PORT"] = str(ports.pop())  # a run ends its process group
        with watched(folder / f"{name} rank {rank}.json"):
            train(folder / name, *RUN, *overrides, resume=resume)

    def copy(name, new, step):
        if rank == "0":  # the next run waits for it
            shutil.copytree(folder / name, folder / new, ignore=shutil.ignore_patterns("model", *later_than(step)))

    run("ddp", "ddp")
    copy("ddp", "ddp to fsdp2", 2)
    copy("ddp", "2 to 1 to 2", 1)
    run("ddp to fsdp2", "fsdp2", "stop_step=3", resume=True)

    run("fsdp2", "fsdp2")
    copy("fsdp2", "fsdp2 to ddp", 2)
    copy("fsdp2", "fsdp2 again", 2)
    run("fsdp2 to ddp", "ddp", "stop_step=3", resume=True)
    run("fsdp2 again", "fsdp2", "stop_step=3", resume=True)
    run("pieces", "fsdp2", "accumulation_steps=2", "gradient_checkpointing=true", "stop_step=2")

    for engine in ("ddp", "fsdp2"):
        run(f"{engine} bf16", engine, "precision=bf16", "stop_step=2")

    if rank == "0":
        places = {name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")}
        run("2 to 1 to 2", "one", "stop_step=2", resume=True)
        os.environ.update(places)
    else:
        ports.pop()
    run("2 to 1 to 2", "ddp", "stop_step=3", resume=True)


def use(engine: str) -> None:
    """What `accelerate launch` would set."""
    os.environ.update(ACCELERATE_USE_FSDP=str(engine == "fsdp2").lower(), FSDP_VERSION="2", ACCELERATE_USE_CPU="true")


def later_than(step: int) -> list[str]:
    return [f"step-{number:08d}" for number in range(step + 1, 9)]


@contextlib.contextmanager
def watched(path: Path):
    """Writes what this rank held and computed in, when the run is over."""
    held, kinds = {}, defaultdict(set)
    targets, update, mlp = AudioTeacher.targets, AudioTeacher.update, SlapAudioMLP.forward
    losses_of = pretraining_step.pretraining_losses

    def seen_targets(teacher, features, temperature):
        result = targets(teacher, features, temperature)
        kinds["features"].add(features.dtype)
        kinds["prototypes"].add(result.prototypes.dtype)
        kinds["offsets"].add(result.offsets.dtype)
        return result

    def seen_losses(*arguments):
        result = losses_of(*arguments)
        kinds["losses"].update(loss.dtype for loss in result.values())
        return result

    def seen_mlp(layer, hidden):
        result = mlp(layer, hidden)
        kinds["layer"].add(result.dtype)
        return result

    def seen_update(teacher, model, momentum):
        before = [local(p).clone() for p in teacher.parameters()]
        update(teacher, model, momentum)
        students = [*model.slap.audio_model.parameters(), *model.prototype_head.parameters()]
        for old, mine, its in zip(before, teacher.parameters(), students, strict=True):
            expected = momentum * old.double() + (1 - momentum) * local(its).double()
            assert torch.allclose(local(mine).double(), expected, rtol=1e-6, atol=1e-8), "teacher"
        for name, module in (("student", model), ("teacher", teacher)):
            held[name] = sum(local(p).numel() for p in module.parameters())
            held[f"whole {name}"] = sum(p.numel() for p in module.parameters())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AudioTeacher, "targets", seen_targets)
        patch.setattr(AudioTeacher, "update", seen_update)
        patch.setattr(SlapAudioMLP, "forward", seen_mlp)
        patch.setattr(pretraining_step, "pretraining_losses", seen_losses)
        patch.setattr(
            "hf_slap.compute.matmul_rate", lambda *arguments: 1e9
        )  # in bfloat16 this CPU takes seconds for it
        yield
    path.write_text(json.dumps({"held": held, "kinds": {name: sorted(map(str, k)) for name, k in kinds.items()}}))


def local(parameter):
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter.detach()
