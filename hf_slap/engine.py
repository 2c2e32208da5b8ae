"""The engine of a run: one process, DDP or FSDP2, whichever `accelerate launch` was told; all of it is Accelerate's
and PyTorch's.

The three compute the same. Weights, moments and the teacher are float32 in all of them, and bfloat16 is autocast's
choice, operation by operation. FSDP2 could also gather weights in bfloat16 (its `MixedPrecisionPolicy`). Not done here:
`logit_scale` would round to steps of 0.016 to 0.03, the multiplier with it by 1 %, and the models are small.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType, convert_outputs_to_fp32
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from .distributed import is_main, world_size

_ENDED: list = []  # process groups
_SERVED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def computes_bf16(precision: str) -> bool:
    """Whether the run computes in bfloat16; "auto" does where the device has it in hardware."""
    return precision == "bf16" or (
        precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    )


def start_engine(bf16: bool, **keywords) -> Accelerator:
    """An `Accelerator` on the devices there are, with the engine that the launch asks for.

    Args:
        bf16: compute in bfloat16 where autocast does.
        keywords: of `Accelerator`.
    Raises:
        NotImplementedError: an engine that is not served; the message says which are.
    """
    served = "served are one process, DDP (--multi_gpu) and FSDP2 (--use_fsdp --fsdp_version 2); examples/launch has "
    served += "a file for each"
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise NotImplementedError(f"DeepSpeed is not served; {served}")
    # Every process makes its weights itself, from the seed or a file. (transformers reads this too.)
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # unasked, Accelerate leaves processes on CPUs apart
        mixed_precision="bf16" if bf16 else "no",
        **keywords,
    )
    state = accelerator.state
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if wants_fsdp and state.distributed_type == DistributedType.MULTI_CPU:
        # PyTorch shards on CPUs as well; Accelerate does not think of it.
        state.distributed_type, state.fsdp_plugin = DistributedType.FSDP, FullyShardedDataParallelPlugin()
    if state.distributed_type not in _SERVED:
        raise NotImplementedError(f"{state.distributed_type.value} is not served; {served}")
    if state.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise NotImplementedError(f"fsdp_version 1 is not served; {served}")
        if state.fsdp_plugin.activation_checkpointing:
            raise NotImplementedError(
                "fsdp_activation_checkpointing is not served; set gradient_checkpointing=true in the run's config"
            )
    if accelerator.num_processes != world_size():
        raise RuntimeError(f"Accelerate sees {accelerator.num_processes} processes, torch {world_size()}")
    return accelerator


def end_run(accelerator: Accelerator) -> None:
    """Ends trackers and the process group.

    gloo's threads may still be putting work away, for which they need the interpreter. Were the group let go of with
    the model, its last owner, that would wait for them holding the interpreter: a process hung for ever after its
    last step. So the group, which is of no more use, is kept to the end of the process.
    """
    if dist.is_initialized():
        _ENDED.append(dist.group.WORLD)
    accelerator.end_training()


def wrap(accelerator: Accelerator, model: nn.Module, teacher: nn.Module | None = None) -> nn.Module:
    """The model as its engine runs it, on the accelerator's device; call before the optimizer is made.

    Args:
        model: `SlapForPreTraining`. Under FSDP2 it is sharded in place, each transformer layer a group of its own.
        teacher: `AudioTeacher`, moved to the device; under FSDP2 sharded as the model is, so that each rank's part of
            it follows the same part of the student.
    Returns:
        what to call: the model itself, or DDP around it.
    """
    if not accelerator.is_fsdp2:
        if teacher is not None:
            teacher.to(accelerator.device)
        return accelerator.prepare_model(model)
    plugin, mesh = accelerator.state.fsdp_plugin, accelerator.torch_device_mesh
    layers = plugin.transformer_cls_names_to_wrap or model._no_split_modules
    settings = {
        "mesh": mesh and mesh[tuple(accelerator.parallelism_config.fsdp_dim_names)],
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload,
    }
    # Not by `Accelerator.prepare`: it gives the output layer a group of its own, and ours shares its weight.
    for whole in (model, teacher) if teacher is not None else (model,):
        for part in whole.modules():
            if type(part).__name__ in layers:
                fully_shard(part, **settings)
        fully_shard(whole, **{**settings, "reshard_after_forward": whole is teacher})
    if teacher is not None:
        register_fsdp_forward_method(teacher, "targets")  # reads the prototypes
    if accelerator.mixed_precision == "bf16":  # as Accelerate does around DDP
        model.forward = convert_outputs_to_fp32(accelerator.autocast()(model.forward))
    return model


@contextmanager
def gathered(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Within it every rank holds all weights of a sharded model, and any part of it can be called, by one rank alone
    too. Nothing happens to a model that is not sharded. Call on every rank; not between forward and backward.
    """
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            # The weights of the root are needed first in the backward pass: resharding them would be in vain.
            again = unit is not model and accelerator.state.fsdp_plugin.reshard_after_forward
            unit.set_reshard_after_forward(again, recurse=False)


def whole_model(model: nn.Module) -> nn.Module | None:
    """The model to save: itself, or a copy with all weights on the CPU when it is sharded. Call on every rank.

    Returns:
        None on all ranks but the first when the model is sharded.
    """
    if not isinstance(model, FSDPModule):
        return model
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not is_main():
        return None
    with torch.device("meta"):
        whole = type(model).__bases__[1](model.config)  # FSDP has made a subclass of the model's class
    whole.load_state_dict(weights, assign=True)
    whole.tie_weights()
    return whole
