"""The training loop in passes over a corpus: what fine-tuning and supervised pretraining share.

Configuration and command line, corpora, batches, the loop with validation and checkpoints, and what it leaves behind.
Order, augmentation and pairs for mixup are functions of (seed, epoch, position), and a step of several processes is
that of one: the global batch is planned first and then shared out.
"""

import argparse
import dataclasses
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .checkpoint import checkpoint_to_resume, last_checkpoint, load_checkpoint, save_checkpoint
from .data import ClipSettings, PretrainDataset, load_corpus, plan_epoch, run_batches, share
from .data.batching import ClipRef
from .distributed import (
    is_main,
    main_first,
    merge_over_ranks,
    on_main,
    raise_together,
    rank,
    sum_over_ranks,
    together,
    world_size,
)
from .engine import computes_bf16, end_run, gathered, start_engine, whole_model, wrap
from .modeling.audio_slap import AudioError
from .optimization import learning_rate, set_learning_rate
from .registration import save_folder
from .starting_points import layerwise_groups
from .training_config import checked, clip_settings, lasting_settings, read_values
from .training_log import METRICS_FILE, PICTURE_FILE, TrainingLog, note_skipped, read_metrics, tracker_settings

OPTIMIZERS = ("adamw", "sgd")
# Fields that may change when a run is resumed: they say what is watched and written, not what is computed.
_FREE_TO_CHANGE = ("run_folder", "stop_step", "workers", "log_every", "checkpoint_every", "keep_checkpoints", "tracker")


# ------------------------------------------------------------------------------------------------ configuration
@dataclasses.dataclass
class LoopConfig:
    """What every run of `fit` has; each script adds its own fields, and states its numbers' sources.

    Args:
        train_data, train_split: corpus to learn from: folder with metadata.csv, parquet file(s) or Hub id.
        validation_data, validation_split: held-out corpus; with only a split, that of `train_data`; with neither,
            `validation_share` of the training clips, drawn by the seed, is held out.
        run_folder: where everything goes; must hold no other run.
        clips: keywords of `data.ClipSettings`.
        audio_tower: folder or Hub id whose audio encoder is the start.
        frozen: regular expressions; parameters in whose name one is found stay as they are.
        layer_decay: learning rate of a layer relative to the one above it, see `starting_points.layer_scales`.
        epochs: passes over the training clips.
        batch_clips: clips in a step, over all processes.
        batch_seconds: no more seconds of audio than this in a step; null: no limit.
        optimizer: "adamw" or "sgd".
        learning_rate, warmup_epochs: linear warm-up, then a cosine to a hundredth.
        beta1, beta2, epsilon: of AdamW. momentum: of SGD. weight_decay: on matrices only.
        gradient_clip: largest norm of a step's gradient; null: no limit.
        precision: "auto" is bfloat16 where the device computes it well, else float32; or "bf16", "float32".
        gradient_checkpointing: less memory, about a quarter slower.
        validate_every: epochs between validations; the first is before any step.
        checkpoint_every: steps between checkpoints, the last step has one too; keep_checkpoints: the last so many are
            kept; stop_step: leave after this step with a checkpoint, as if interrupted.
        seed, workers, log_every (steps), tracker: as in `TrainConfig`.
    Raises:
        ValueError: unknown keys, wrong types, values outside their range; the message lists what is accepted.
    """

    train_data: str | list[str] = ""
    train_split: str | None = None
    validation_data: str | list[str] | None = None
    validation_split: str | None = None
    validation_share: float = 0.1
    run_folder: str = "runs/finetune"
    clips: dict = dataclasses.field(default_factory=dict)

    audio_tower: str | None = None
    frozen: list[str] = dataclasses.field(default_factory=list)
    layer_decay: float = 1.0

    epochs: int = 20
    batch_clips: int = 128
    batch_seconds: float | None = None
    optimizer: str = "adamw"
    learning_rate: float = 5e-5
    warmup_epochs: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    gradient_clip: float | None = 2.0
    precision: str = "auto"
    gradient_checkpointing: bool = False

    validate_every: int = 1
    checkpoint_every: int = 1000
    keep_checkpoints: int = 1
    stop_step: int | None = None
    seed: int = 0
    workers: int = 4
    log_every: int = 10
    tracker: str = "none"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, checked(field.name, getattr(self, field.name), field.type))
        self.clips = clip_settings(self.clips)
        for name, accepted in (("optimizer", OPTIMIZERS), ("precision", ("auto", "bf16", "float32"))):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {list(accepted)}")
        for name in (
            "epochs", "learning_rate", "validate_every", "checkpoint_every", "keep_checkpoints", "stop_step",
            "log_every", "batch_seconds", "gradient_clip",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if self.batch_clips < 2:
            raise ValueError(f"batch_clips is {self.batch_clips}; a step needs at least 2 clips")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must be less than epochs, {self.epochs}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must lie between 0 and 1")

    @property
    def saves_merged(self) -> bool:
        """Whether a model with adapters is, at the end, also saved with these merged into its weights."""
        return False

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()):
        """Reads a YAML file and applies `key=value` overrides; dots reach into sections such as `clips`."""
        config = cls(**read_values(cls, path, overrides))
        if not config.train_data:
            raise ValueError("train_data is not set: a folder with metadata.csv, parquet file(s) or a Hub id")
        return config

    def settings(self) -> dict:
        """What must stay the same when the run is resumed: all that shapes the result."""
        return lasting_settings(self, _FREE_TO_CHANGE)

    def to_yaml(self) -> str:
        """The resolved configuration, which `load` reads back to the same."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


AnyConfig = TypeVar("AnyConfig", bound=LoopConfig)


def begin(
    config_class: type[AnyConfig], description: str, arguments: list[str] | None
) -> tuple[AnyConfig, Accelerator]:
    """Reads the command line, prints the resolved configuration and saves it, seeds, and finds the device."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", help=f"YAML file: the fields of {config_class.__name__} that differ from its defaults"
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    parser.add_argument("overrides", nargs="*", help="key=value, such as epochs=5 clips.gain_db=6")
    parsed = parser.parse_intermixed_args(arguments)
    config = config_class.load(parsed.config, parsed.overrides)
    run_folder = Path(config.run_folder)
    if read_metrics(run_folder) and not parsed.resume:
        parser.error(f"{run_folder} holds another run; remove it, pass --resume to go on, or run_folder=...")
    accelerator = start_engine(
        computes_bf16(config.precision),
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=run_folder,
    )

    def note() -> None:
        print(config.to_yaml())
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.yaml").write_text(config.to_yaml())
        if last_checkpoint(run_folder / "checkpoints") is None:
            (run_folder / METRICS_FILE).unlink(missing_ok=True)  # of a run that ended before its first checkpoint

    on_main(note)
    if config.tracker != "none":
        checkpoint = checkpoint_to_resume(run_folder / "checkpoints")
        done = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        same_run = tracker_settings(config.tracker, run_folder, done) if is_main() else {}
        accelerator.init_trackers("slap-finetune", {"config": config.to_yaml()}, init_kwargs=same_run)
    set_seed(config.seed)
    return config, accelerator


# ------------------------------------------------------------------------------------------------------ corpora
def open_corpora(config: Any, seed: int, caption_column: str | None = None) -> tuple[Dataset, Dataset]:
    """The clips to learn from and those to validate with; rows of one id stay on one side.

    Args:
        config: has `train_data`, `train_split`, `validation_data`, `validation_split` and `validation_share`.
        seed: draws the clips to hold out where no others are given.
    """
    return main_first(lambda: _open_corpora(config, seed, caption_column))


def _open_corpora(config: Any, seed: int, caption_column: str | None) -> tuple[Dataset, Dataset]:
    corpus = load_corpus(config.train_data, config.train_split, caption_column=caption_column)
    if config.validation_data or config.validation_split:
        source = config.validation_data or config.train_data
        return corpus, load_corpus(source, config.validation_split, caption_column=caption_column)
    ids = sorted(set(corpus["id"]))
    count = max(2, round(config.validation_share * len(ids)))
    if len(ids) < count + 2:
        raise ValueError(f"{len(ids)} clips are too few to hold some out; set validation_data")
    order = np.random.default_rng((seed, len(ids))).permutation(len(ids))
    held_out = {ids[place] for place in order[:count]}
    sides = [[], []]
    for row, name in enumerate(corpus["id"]):
        sides[name in held_out].append(row)
    if is_main():
        print(f"no validation_data: {count} of {len(ids)} clips are held out, drawn by the seed")
    return corpus.select(sides[0]), corpus.select(sides[1])


def training_clips(
    config: LoopConfig, corpus: Dataset, extractor: Any, model: nn.Module, clips: dict | None = None
) -> PretrainDataset:
    """The clips of an epoch, augmented as `clips` (default: the run's) says, without masked patches."""
    audio = model.config.audio_config
    settings = ClipSettings(
        **(config.clips if clips is None else clips),
        seed=config.seed,
        max_seconds=audio.max_audio_seconds,
        patch_frames=audio.patch_frames,
        patch_bins=audio.patch_bins,
    )
    return PretrainDataset(corpus, extractor, _no_patch_mask, settings)


def _no_patch_mask(columns: int, rows: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(columns * rows, dtype=bool)


class Batches(NamedTuple):
    """What `fit` learns from.

    Args:
        loader: (first step, last step) -> this rank's batches of the steps between.
        epoch_ends: the step that each epoch ends with.
    """

    loader: Callable[[int, int], DataLoader]
    epoch_ends: list[int]


def training_batches(
    config: LoopConfig,
    clips: torch.utils.data.Dataset,
    durations: Sequence[float],
    max_seconds: float,
    collate: Callable,
    part: Callable[[list[ClipRef]], list] | None = None,
) -> Batches:
    """The batches of `config.epochs` passes over one corpus.

    Args:
        clips: what the loader reads; durations: of all its clips, in seconds; max_seconds: longer ones are cropped.
        collate: a list of items -> batch.
        part: what this rank reads of a global batch; default: `my_part`.
    """
    durations, seconds = np.asarray(durations), config.batch_seconds or float("inf")
    if part is None:
        part = lambda batch: my_part(batch, durations, max_seconds)  # noqa: E731
    sizes = [
        sum(1 for _ in plan_epoch(durations, seconds, config.seed, epoch, max_seconds, config.batch_clips))
        for epoch in range(config.epochs)
    ]

    def steps(first: int, last: int) -> Iterator[list]:
        batches = run_batches(
            durations, seconds, config.seed, first, last, max_seconds=max_seconds, max_clips=config.batch_clips
        )
        return map(part, batches)

    return Batches(
        lambda first, last: make_loader(config, clips, steps(first, last), collate), list(itertools.accumulate(sizes))
    )


def my_part(batch: list[ClipRef], durations: Sequence[float], max_seconds: float) -> list[ClipRef]:
    """The clips of a global batch that this rank computes: `data.share`."""
    mine = set(share([ref.index for ref in batch], durations, rank(), world_size(), max_seconds))
    return [ref for ref in batch if ref.index in mine]


def make_loader(
    config: LoopConfig, clips: torch.utils.data.Dataset, batches: Iterable[list], collate: Callable
) -> DataLoader:
    """Reads batches, none of which may be empty."""
    return DataLoader(
        clips,
        batch_sampler=_none_empty(batches),
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or starting the loader would draw from torch's random state
    )


def _none_empty(batches: Iterable[list]) -> Iterator[list]:
    for batch in batches:
        if not batch:
            raise ValueError(
                f"a step has too few clips for {world_size()} processes, one of which has none; raise batch_clips or "
                "batch_seconds, or launch fewer"
            )
        yield batch


class _WholeClips(torch.utils.data.Dataset):
    """(row, log-mel (T, M), None) of each clip in full, or (row, None, why it cannot be heard)."""

    def __init__(self, corpus: Dataset, extractor: Any):
        self.corpus, self.extractor = corpus.select_columns(["id", "audio"]), extractor

    def __getitem__(self, row: int) -> tuple[int, Tensor | None, str | None]:
        clip = self.corpus[row]
        try:
            waveform = self.extractor.load(clip["audio"], name=clip["id"])
        except AudioError as problem:
            return row, None, str(problem)
        return row, torch.from_numpy(self.extractor.log_mel(waveform)), None


@torch.no_grad()
def for_each_clip(
    corpus: Dataset,
    extractor: Any,
    function: Callable[[Tensor, Tensor, list[int]], Sequence],
    accelerator: Accelerator,
    config: LoopConfig,
    batch_seconds: float = 120.0,
) -> dict[int, Any]:
    """Calls `function` with batches of whole clips, without gradients. Ranks share the batches; all know the results.

    Args:
        corpus: the clips.
        extractor: `SlapFeatureExtractor`.
        function: (input_features (B, T, M), input_features_mask (B, T), rows) -> B results.
        accelerator, config: the device and precision, the loader's workers.
        batch_seconds: of audio, about, at once.
    Returns:
        {row: result} in the order of the corpus, less the clips that cannot be heard; those are noted.
    """
    batches, filled = [[]], 0.0
    for row in np.argsort(corpus["duration"], kind="stable").tolist():  # clips of like length: little padding
        if batches[-1] and filled + corpus[row]["duration"] > batch_seconds:
            batches.append([])
            filled = 0.0
        batches[-1].append(row)
        filled += corpus[row]["duration"]
    loader = make_loader(config, _WholeClips(corpus, extractor), batches[rank() :: world_size()], list)
    results = {}
    for clips in loader:
        note_skipped([(corpus[row]["id"], why) for row, _, why in clips if why], Path(config.run_folder))
        clips = [(row, features) for row, features, why in clips if not why]
        if not clips:
            continue
        rows, features = map(list, zip(*clips, strict=True))
        lengths = torch.tensor([len(x) for x in features])
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)  # (B, T, M)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        with accelerator.autocast():
            values = function(padded.to(accelerator.device), mask.to(accelerator.device), rows)
        results.update(zip(rows, values, strict=True))
    results = merge_over_ranks(results)
    if not results:
        raise ValueError("not one clip of the corpus can be heard; see skipped_clips.jsonl")
    return results


# --------------------------------------------------------------------------------------------------------- loop
def fit(
    config: LoopConfig,
    accelerator: Accelerator,
    model: nn.Module,
    batches: Batches,
    loss_of: Callable[[nn.Module, dict], tuple[Tensor, dict[str, Tensor]] | Tensor],
    validate: Callable[[], tuple[dict[str, float], list[str]]],
    best: tuple[str, Callable],
    processor: Any,
) -> Path:
    """Trains, validates after every `validate_every` epochs, and saves whenever the validation is the best so far.
    Goes on from the last checkpoint of the run folder where there is one.

    Args:
        model: a `PreTrainedModel`, or a `peft.PeftModel` around one.
        loss_of: (wrapped model, batch on the device) -> (), such that the mean over ranks is that of the whole batch;
            or that and parts of it by name, to be logged.
        validate: -> numbers by name, and lines to show; called in evaluation mode without gradients.
        best: the number that decides, and `min` or `max`.
        processor: saved beside the weights.
    Returns:
        the folder of the best model, or of its adapter.
    """
    run_folder, started = Path(config.run_folder), time.monotonic()
    steps, checkpoints = batches.epoch_ends[-1], run_folder / "checkpoints"
    last_step = min(steps, config.stop_step or steps)
    ends = {step: epoch for epoch, step in enumerate(batches.epoch_ends, start=1)}
    warmup = round(steps * config.warmup_epochs / config.epochs)
    adapted = is_adapted(model)
    if adapted and accelerator.is_fsdp2:
        raise NotImplementedError("lora is served on one process and with DDP; launch without --use_fsdp")
    wrapped = wrap(accelerator, model)
    optimizer = build_optimizer(config, model)
    prepared_optimizer = accelerator.prepare_optimizer(optimizer)
    target = run_folder / ("adapter" if adapted else "model")
    kept = TrainedWeights(model) if adapted else wrapped
    measure, better = best
    first_step, record = 0, None
    if checkpoint := checkpoint_to_resume(checkpoints):
        state = load_checkpoint(checkpoint, kept, optimizer, settings=config.settings())
        first_step, record = state["step"], state["record"]
        accelerator.print(f"continuing after step {first_step}, from {checkpoint}")

    def validate_and_save(log: TrainingLog, step: int) -> None:
        nonlocal record
        model.eval()
        with torch.no_grad(), gathered(accelerator, model):
            values, lines = validate()
        model.train()
        log.validation(step, values)
        if is_main():
            for line in lines:
                log.console.print(line, highlight=False, markup=False)
        if record is None or (values[measure] != record and better(values[measure], record) == values[measure]):
            record = values[measure]
            whole = whole_model(model)
            on_main(lambda: save_model(target, whole, processor))

    with TrainingLog(run_folder, steps, first_step, accelerator.log, is_main()) as log:
        if not checkpoint:
            validate_and_save(log, 0)
        for step, batch in enumerate(together(batches.loader(first_step, last_step)), start=first_step):
            note_skipped(batch["skipped"], run_folder)
            batch = {k: v.to(accelerator.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            rate = learning_rate(step, config.learning_rate, warmup, steps, config.learning_rate / 100)
            set_learning_rate(optimizer, rate)
            losses = loss_of(wrapped, batch)
            loss, parts = losses if isinstance(losses, tuple) else (losses, {})
            accelerator.backward(loss)
            limit = config.gradient_clip if config.gradient_clip is not None else float("inf")
            gradient_norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
            refuse_not_finite(step, loss, gradient_norm, batch["ids"])
            prepared_optimizer.step()
            if hasattr(model, "clamp_logit_scale"):
                model.clamp_logit_scale()
            prepared_optimizer.zero_grad()
            done = step + 1
            heard = sum_over_ranks(torch.tensor(batch["audio_seconds"], device=accelerator.device, dtype=torch.float32))
            log.heard(done, float(heard))
            if done % config.log_every == 0 or done == steps:
                means = {
                    n: float(sum_over_ranks(x.detach())) / world_size() for n, x in {"total": loss, **parts}.items()
                }
                log.train(done, {**means, "gradient_norm": float(gradient_norm), "learning_rate": rate})
            if done in ends and (ends[done] % config.validate_every == 0 or done == steps):
                validate_and_save(log, done)
            if done % config.checkpoint_every == 0 or done == last_step:
                save_checkpoint(
                    checkpoints,
                    done,
                    kept,
                    optimizer,
                    counters={"record": record},
                    settings=config.settings(),
                    keep=config.keep_checkpoints,
                )

    if last_step < steps:
        accelerator.print(f"stopped after step {last_step} of {steps}; go on with --resume")
    else:
        if adapted and config.saves_merged:
            on_main(lambda: save_merged(run_folder / "model", target, model, processor))
        if is_main():
            print_result(run_folder, measure, better, time.monotonic() - started)
            print(f"curves: {draw_curves(run_folder)}")
    end_run(accelerator)
    return target


class TrainedWeights(nn.Module):
    """Of a model only what is trained: all that a checkpoint needs where the rest is large, and held in few bits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)


def build_optimizer(config: LoopConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over `starting_points.layerwise_groups`."""
    groups = layerwise_groups(model, config.weight_decay, config.layer_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon)


def refuse_not_finite(step: int, loss: Tensor, gradient_norm: Tensor, ids: Sequence[str]) -> None:
    """Stops the run on every rank, before the weights are changed, where the loss or the gradient is not finite, naming
    the clips; the best model is saved already."""
    error, loss, norm = None, loss.item(), float(gradient_norm)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        error = FloatingPointError(
            f"the loss of step {step + 1} is {loss}, the norm of its gradient {norm}; clips {list(ids)}. Lower "
            "learning_rate, or leave these clips out"
        )
    raise_together(error)


# ------------------------------------------------------------------------------------------------ what is left
def is_adapted(model: nn.Module) -> bool:
    """Whether peft lies around the model."""
    return hasattr(model, "merge_and_unload")


def save_model(folder: Path, model: nn.Module, processor: Any) -> None:
    """Writes a SLAP folder, or the folder of an adapter, beside, then puts it in the place of the last one."""
    beside = folder.parent / f".writing-{folder.name}"
    shutil.rmtree(beside, ignore_errors=True)
    if is_adapted(model):
        for settings in model.peft_config.values():
            settings.auto_mapping = None  # would name a module of this machine
        model.save_pretrained(beside)
        processor.save_pretrained(beside)
        if "classifier" in (model.peft_config["default"].modules_to_save or ()):
            model.config.save_pretrained(
                beside / "classes"
            )  # config.json in the folder itself would mean a whole model
    else:
        save_folder(beside, model, processor)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(beside, folder)


def save_merged(folder: Path, adapter: Path, model: nn.Module, processor: Any) -> None:
    """Puts the saved adapter back into the model, merges it into the weights, and writes a SLAP folder."""
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))
    save_model(folder, model.merge_and_unload().eval(), processor)


def print_result(folder: Path, measure: str, better: Callable, seconds: float) -> None:
    """A table of how the loss and the validation went: first, last, and at the step that was kept."""
    rows = read_metrics(folder)
    train, held_out = ([row for row in rows if row["kind"] == kind] for kind in ("train", "validation"))
    table = Table(title="the run", title_justify="left", box=None, pad_edge=False)
    for heading in ("", "first", "last", "kept"):
        table.add_column(heading, justify="left" if not heading else "right")
    if train:
        table.add_row("loss", f"{train[0]['total']:.3f}", f"{train[-1]['total']:.3f}", "")
    kept = next(row for row in held_out if row[measure] == better(row[measure] for row in held_out))
    for name in [name for name in held_out[-1] if name not in ("kind", "step")]:
        table.add_row(f"held-out {name}", *(f"{row[name]:.3f}" for row in (held_out[0], held_out[-1], kept)))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(f"kept: step {kept['step']}, by {measure}; {seconds:.0f} s in all", highlight=False)


def draw_curves(folder: Path) -> Path:
    """Draws what metrics.jsonl holds: the training loss, and a line for every validation number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    rows = read_metrics(folder)
    train, held_out = ([row for row in rows if row["kind"] == kind] for kind in ("train", "validation"))
    names = [name for name in (held_out[-1] if held_out else ()) if name not in ("kind", "step")]
    losses, scores = [n for n in names if "loss" in n], [n for n in names if "loss" not in n]
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([row["step"] for row in train], [row["total"] for row in train], label="training loss")
    for axis, group in ((left, losses), (right, scores)):
        for name in group:
            axis.plot(
                [row["step"] for row in held_out], [row[name] for row in held_out], "o-", markersize=3, label=name
            )
    right.set_ylim(0, 1)
    for axis, title in ((left, "loss, nats"), (right, "held-out clips")):
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=7)
    path = folder / PICTURE_FILE
    figure.savefig(path, dpi=130)
    return path
