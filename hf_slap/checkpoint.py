"""Checkpoints of a run: everything needed to go on to the last bit, as safetensors and JSON, never as a
pickle.

    checkpoints/step-00001000/
        model.safetensors       weights under the names of `SlapForPreTraining`
        optimizer.safetensors   AdamW's moments under the names of the weights, flat
        teacher.safetensors     the EMA teacher, when there is one
        random.safetensors      torch's random state of every rank
        state.json              the step, counters, settings, and the size of every other file; written last

A checkpoint is written into a folder beside, flushed to the disk and renamed, so a name that starts with
"step-" is a whole checkpoint or none. Weights and moments are whole tensors whatever engine the run uses (one
process, DDP, FSDP2): the next run may use another one.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from .distributed import gather_objects, gather_rows, is_main, raise_together, rank
from .modeling.weights_slap import WeightsError, open_weights

STATE_FILE = "state.json"
_FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not fit the run that asks for it."""


def save_checkpoint(
    folder: str | Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    teacher: nn.Module | None = None,
    counters: dict | None = None,
    settings: dict | None = None,
    keep: int = 3,
) -> Path:
    """Writes `folder/step-...`, then removes all but the last `keep` whole checkpoints. Call on every rank.

    Args:
        folder: the run's checkpoint folder, made when missing.
        step: optimizer steps done.
        model: plain, or wrapped by DDP or FSDP2; optimizer: a torch optimizer of its parameters.
        teacher: plain and the same on every rank, or sharded by FSDP2.
        counters: JSON values to get back from `load_checkpoint`.
        settings: JSON values that must be the same when the run goes on (`TrainConfig.settings`).
    Returns:
        the folder of the checkpoint.
    Raises:
        CheckpointError: it could not be written (disk full, no permission). What was there before is
            untouched.
    """
    folder = Path(folder)
    weights, moments = get_state_dict(model, optimizer, options=_whole(cpu_offload=True))
    # Of the optimizer only the moments: the numbers of its groups belong to the configuration and the schedules.
    # Ranks other than the first are given nothing of either.
    tensors = {"model": weights, "optimizer": _flat(moments.get("state", {})), "random": _random_state()}
    if teacher is not None:
        tensors["teacher"] = get_model_state_dict(teacher, options=_whole(cpu_offload=True))
    target, error = folder / f"step-{step:08d}", None
    if is_main():
        state = {"format": _FORMAT, "step": step, "counters": counters or {}, "settings": settings or {}}
        try:
            _write(target, tensors, state)
            _rotate(folder, keep)
        except Exception as reason:  # a full disk: SafetensorError or OSError
            error = CheckpointError(_why_not_written(target, tensors, reason))
            error.__cause__ = reason
    raise_together(error)
    return target


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    optimizer: Optimizer,
    teacher: nn.Module | None = None,
    settings: dict | None = None,
) -> dict:
    """Puts a checkpoint back into the model, optimizer, teacher and torch's random state. Call on every rank.

    Args:
        path: a `step-...` folder.
        model, optimizer, teacher: built from the same configuration as those that were saved.
        settings: compared with those of the checkpoint.
    Returns:
        the counters, with "step" among them.
    Raises:
        CheckpointError: half written, made by another model, or with other settings; says what differs.
    """
    path = Path(path)
    state = _read_state(path)
    if state is None:
        raise CheckpointError(f"{path} is not a whole checkpoint; `last_checkpoint` finds the last whole one")
    if state["format"] != _FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads format {_FORMAT}")
    _refuse_other_settings(path, state["settings"], settings or {})

    weights, moments = get_state_dict(model, optimizer, options=_whole())
    saved_weights = _read(path / "model.safetensors")
    _refuse_other_tensors(path / "model.safetensors", saved_weights, weights)
    saved_moments = _read(path / "optimizer.safetensors")
    _refuse_other_tensors(path / "optimizer.safetensors", saved_moments, _flat(moments["state"]))
    for parameter, values in moments["state"].items():
        values.update({name: saved_moments[f"{parameter}.{name}"] for name in values})
    set_state_dict(model, optimizer, model_state_dict=saved_weights, optim_state_dict=moments, options=_whole())
    if teacher is not None:
        saved_teacher = _read(path / "teacher.safetensors")
        _refuse_other_tensors(path / "teacher.safetensors", saved_teacher, teacher.state_dict())
        set_model_state_dict(teacher, saved_teacher, options=_whole())
    try:
        _restore_random_state(_read(path / "random.safetensors"))
    except (RuntimeError, TypeError, KeyError) as error:  # no state of a generator
        raise CheckpointError(
            f"{path / 'random.safetensors'} is damaged: {error}. Go on from another checkpoint: remove the folder "
            f"{str(path)!r}"
        ) from error
    return {**state["counters"], "step": state["step"]}


def checkpoint_to_resume(folder: str | Path) -> Path | None:
    """`last_checkpoint`, the same on every rank. Call on every rank, while nobody writes.

    Raises:
        CheckpointError: ranks see different ones.
    """
    found = last_checkpoint(folder)
    seen = gather_objects(found and found.name)
    if len(set(seen)) > 1:
        raise CheckpointError(
            f"the processes see different last checkpoints in {folder}: {seen}, in the order of ranks; the run folder "
            "must lie on a disk that all machines share"
        )
    return found


def last_checkpoint(folder: str | Path) -> Path | None:
    """The whole checkpoint with the highest step, passing over half-written ones; None when there is none."""
    return next((path for path in reversed(_checkpoints(Path(folder))) if _read_state(path)), None)


def average_weights(folder: str | Path, count: int) -> dict[str, Tensor]:
    """The mean of the weights of the last `count` whole checkpoints: often better than each of them.

    Args:
        folder: the run's checkpoint folder.
        count: how many.
    Returns:
        weights by name, as in a checkpoint.
    Raises:
        CheckpointError: there are fewer.
    Source: stochastic weight averaging (Izmailov et al. 2018), over the end of one run.
    """
    paths = [path for path in _checkpoints(Path(folder)) if _read_state(path)][-count:]
    if len(paths) < count:
        raise CheckpointError(
            f"{count} checkpoints are to be averaged, {folder} has {len(paths)}; lower average_checkpoints, or next "
            "time checkpoint_every"
        )
    sums: dict[str, Tensor] = {}
    for path in paths:
        for name, weight in _read(path / "model.safetensors").items():
            sums[name] = sums[name] + weight.double() if name in sums else weight.double()
    return {name: (total / count).float() for name, total in sums.items()}


# ---------------------------------------------------------------------------------------------------- writing
def _write(target: Path, tensors: dict[str, dict[str, Tensor]], state: dict) -> None:
    beside = target.parent / f".writing-{target.name}"
    for leftover in (*target.parent.glob(".writing-*"), *target.parent.glob(".deleting-*")):  # of a run that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        for name, values in tensors.items():
            save_file(_without_aliases(values), beside / f"{name}.safetensors")
        state["files"] = {file.name: file.stat().st_size for file in sorted(beside.iterdir())}
        (beside / STATE_FILE).write_text(json.dumps(state, indent=1))
        for file in (*beside.iterdir(), beside):
            _flush(file)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
        _flush(target.parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)  # gives back the space that was too little
        raise


def _flush(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _without_aliases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights share memory, which safetensors refuses: each name gets its own."""
    seen, result = set(), {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.numel() and tensor.data_ptr() in seen:
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        result[name] = tensor
    return result


def _rotate(folder: Path, keep: int) -> None:
    whole = [path for path in _checkpoints(folder) if _read_state(path)]
    kept = whole[-max(keep, 1) :]  # one that is not whole must not count as one of them
    for old in set(_checkpoints(folder)) - set(kept):
        doomed = folder / f".deleting-{old.name}"
        os.replace(old, doomed)  # a checkpoint that is half deleted must not carry its name
        shutil.rmtree(doomed, ignore_errors=True)


def _why_not_written(target: Path, tensors: dict[str, dict[str, Tensor]], reason: Exception) -> str:
    needed = sum(t.numel() * t.element_size() for values in tensors.values() for t in values.values())
    last = last_checkpoint(target.parent)
    try:
        free = f"{shutil.disk_usage(target.parent).free / 2**20:.0f} MiB are free"
    except OSError:
        free = "its folder cannot be read"
    return (
        f"could not write checkpoint {target} ({reason}); it needs {needed / 2**20:.1f} MiB, {free}. "
        + (f"The last good checkpoint is {last}; " if last else "There is no earlier checkpoint; ")
        + "make space (or lower keep_checkpoints) and continue with --resume"
    )


# ---------------------------------------------------------------------------------------------------- reading
def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def _read_state(path: Path) -> dict | None:
    """What state.json says, None unless it is whole and every file that it lists is there in full."""
    try:
        state = json.loads((path / STATE_FILE).read_text())
        whole = all((path / name).stat().st_size == size for name, size in state["files"].items())
        whole &= isinstance(state["format"], int) and isinstance(state["step"], int)
        whole &= isinstance(state["counters"], dict) and isinstance(state["settings"], dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return state if whole else None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise CheckpointError(f"{path} is missing: the checkpoint was made by a run without that part")
    try:
        with open_weights(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except WeightsError as error:
        raise CheckpointError(
            f"{error}. Go on from another checkpoint: remove the folder {str(path.parent)!r}"
        ) from error


def _refuse_other_settings(path: Path, saved: dict, now: dict) -> None:
    if different := differences(saved, json.loads(json.dumps(now))):
        raise CheckpointError(
            f"{path} was made with other settings; restore them, or start anew in another run_folder:\n  "
            + "\n  ".join(different)
        )


def differences(there: dict, now: dict) -> list[str]:
    """Lines that say which values of two nested JSON dictionaries differ."""
    there, now = _flat(there), _flat(now)
    return [
        f"{name}: {there.get(name, 'absent')!r} there, {now.get(name, 'absent')!r} now"
        for name in sorted(there.keys() | now.keys())
        if there.get(name) != now.get(name)
    ]


def _flat(values: dict, prefix: str = "") -> dict:
    result = {}
    for name, value in values.items():
        result |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def _refuse_other_tensors(path: Path, saved: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    reshaped = [name for name in saved.keys() & wanted.keys() if saved[name].shape != wanted[name].shape]
    different = {
        "missing": sorted(wanted.keys() - saved.keys()),
        "unknown": sorted(saved.keys() - wanted.keys()),
        "of another shape": sorted(reshaped),
    }
    if any(different.values()):
        what = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in different.items()
            if names
        )
        raise CheckpointError(f"{path} belongs to another model; tensors {what}")


def _whole(cpu_offload: bool = False) -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, cpu_offload=cpu_offload)


# ----------------------------------------------------------------------------------------------- random state
def _random_state() -> dict[str, Tensor]:
    """torch's generators of every rank: {"cpu": (ranks, bytes), "cuda": (ranks, bytes)}, uint8."""
    if not torch.cuda.is_available():
        return {"cpu": gather_rows(torch.get_rng_state()[None])}
    states = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state()}
    return {name: gather_rows(state[None].cuda()).cpu() for name, state in states.items()}


def _restore_random_state(states: dict[str, Tensor]) -> None:
    # A rank that the saved run did not have keeps the state it was seeded with.
    # Copies, because torch reads a state as 8-byte words and a row of a file need not start at one.
    if rank() < len(states["cpu"]):
        torch.set_rng_state(states["cpu"][rank()].clone())
        if "cuda" in states and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"][rank()].clone())
