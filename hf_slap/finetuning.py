"""What the fine-tuning scripts share: configuration, corpora, LoRA, the loop, and what it leaves behind.

Without LoRA a run leaves `run_folder/model`. With LoRA it leaves `run_folder/adapter`, small and loaded on top of the
model it started from, and, unless told otherwise, `run_folder/model`, where the adapter is merged into the weights.
Both hold the best validation, not the last.
"""

import argparse
import dataclasses
import importlib.util
import itertools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from transformers import AutoTokenizer, PreTrainedModel

from .data import ClipSettings, PretrainDataset, load_corpus, plan_epoch, rank_batches
from .distributed import is_main, raise_together, rank, sum_over_ranks, wait_for_everyone, world_size
from .modeling.audio_slap import AudioError
from .modeling.processing_slap import SlapProcessor
from .optimization import learning_rate
from .registration import save_folder
from .starting_points import QUANTIZATIONS, PartRow, freeze, layerwise_groups, report_lines, trainable_share
from .training_config import checked, clip_settings, read_values, refuse_unknown
from .training_log import PICTURE_FILE, TrainingLog, note_skipped, read_metrics

OPTIMIZERS = ("adamw", "sgd")
# Every linear layer of the audio blocks and of the usual text towers, and the attention of the caption decoder.
LORA_TARGETS = (
    r"(.*\.)?(audio_model\.layers\.\d+\.(self_attn|mlp)\.(qkv_proj|o_proj|gate_up_proj|down_proj)"
    r"|text_model\..*\.(Wqkv|Wo|Wi|[qkvo]_proj|out_proj|gate_proj|up_proj|down_proj|query|key|value|dense"
    r"|[qkv]_lin|out_lin|lin[12]|fc[12]|c_attn|c_proj|c_fc)"
    r"|decoder\.layers\.\d+\.(self|cross)_attn\.[qkvo]_proj)"
)


# ------------------------------------------------------------------------------------------------ configuration
@dataclasses.dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2021) on the linear layers whose names match.

    Args:
        r: rank.
        alpha: the update is scaled by alpha / r.
        dropout: of the adapters' inputs.
        target_modules: regular expression for whole names of layers; frozen parts get no adapter.
        save_merged: also save the model with the adapters merged into its weights.
    """

    r: int = 8  # LoRA's paper, section 7
    alpha: float = 16.0  # twice the rank, as is common
    dropout: float = 0.0
    target_modules: str = LORA_TARGETS
    save_merged: bool = True


@dataclasses.dataclass
class FinetuneConfig:
    """What the fine-tuning scripts have in common; each adds its own fields, and states its numbers' sources.

    Args:
        model: SLAP folder or Hub id to start from.
        audio_tower: folder or Hub id whose audio encoder is taken instead.
        frozen: regular expressions; parameters in whose name one is found stay as they are.
        layer_decay: learning rate of a layer relative to the one above it, see `starting_points.layer_scales`.
        lora: keywords of `LoraSettings`; null trains the weights themselves.
        quantization: "8bit" or "4bit": hold the frozen weights under LoRA so, by bitsandbytes.
        train_data, train_split: corpus to learn from: folder with metadata.csv, parquet file(s) or Hub id.
        validation_data, validation_split: held-out corpus; with only a split, that of `train_data`; with neither,
            `validation_share` of the training clips, drawn by the seed, is held out.
        run_folder: where everything goes; must hold no other run.
        clips: keywords of `data.ClipSettings`.
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
        seed, workers, log_every (steps), tracker: as in `TrainConfig`.
    Raises:
        ValueError: unknown keys, wrong types, values outside their range; the message lists what is accepted.
    """

    model: str = ""
    audio_tower: str | None = None
    frozen: list[str] = dataclasses.field(default_factory=list)
    layer_decay: float = 1.0
    lora: dict | None = None
    quantization: str | None = None

    train_data: str | list[str] = ""
    train_split: str | None = None
    validation_data: str | list[str] | None = None
    validation_split: str | None = None
    validation_share: float = 0.1
    run_folder: str = "runs/finetune"
    clips: dict = dataclasses.field(default_factory=dict)

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
    seed: int = 0
    workers: int = 4
    log_every: int = 10
    tracker: str = "none"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, checked(field.name, getattr(self, field.name), field.type))
        self.clips = clip_settings(self.clips)
        if self.lora is not None:
            fields = dataclasses.fields(LoraSettings)
            refuse_unknown(self.lora, [field.name for field in fields], "lora.")
            given = {**dataclasses.asdict(LoraSettings()), **self.lora}
            self.lora = {f.name: checked(f"lora.{f.name}", given[f.name], f.type) for f in fields}
            if self.lora["r"] < 1:
                raise ValueError(f"lora.r is {self.lora['r']}; a rank is at least 1")
            if self.audio_tower or getattr(self, "text_tower", None):
                raise ValueError(
                    "an adapter names one model to lie on: with lora, audio_tower and text_tower must be null"
                )
        for name, accepted in (("optimizer", OPTIMIZERS), ("precision", ("auto", "bf16", "float32"))):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {list(accepted)}")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization is {self.quantization!r}; accepted are null and {list(QUANTIZATIONS)}")
        if self.quantization and self.lora is None:
            raise ValueError(
                f"quantization={self.quantization} holds weights that cannot be trained; set lora={{}} too"
            )
        for name in ("epochs", "learning_rate", "validate_every", "log_every", "batch_seconds", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}; it must be positive")
        if self.batch_clips < 2:
            raise ValueError(f"batch_clips is {self.batch_clips}; a step needs at least 2 clips")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs}; it must be less than epochs, {self.epochs}")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is {self.validation_share}; it must lie between 0 and 1")

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()):
        """Reads a YAML file and applies `key=value` overrides; dots reach into `clips` and `lora`."""
        config = cls(**read_values(cls, path, overrides))
        if not config.model:
            raise ValueError("model is not set: the SLAP folder or Hub id to start from")
        if not config.train_data:
            raise ValueError("train_data is not set: a folder with metadata.csv, parquet file(s) or a Hub id")
        return config

    def to_yaml(self) -> str:
        """The resolved configuration, which `load` reads back to the same."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


AnyConfig = TypeVar("AnyConfig", bound=FinetuneConfig)


def begin(
    config_class: type[AnyConfig], description: str, arguments: list[str] | None
) -> tuple[AnyConfig, Accelerator]:
    """Reads the command line, prints the resolved configuration and saves it, seeds, and finds the device."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", help=f"YAML file: the fields of {config_class.__name__} that differ from its defaults"
    )
    parser.add_argument("overrides", nargs="*", help="key=value, such as epochs=5 lora.r=4")
    parsed = parser.parse_args(arguments)
    config = config_class.load(parsed.config, parsed.overrides)
    run_folder = Path(config.run_folder)
    if read_metrics(run_folder):
        parser.error(f"{run_folder} holds another run; remove it or pass run_folder=...")
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision="bf16" if config.precision == "bf16" or (config.precision == "auto" and bf16) else "no",
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir=run_folder,
    )
    if is_main():
        print(config.to_yaml())
        run_folder.mkdir(parents=True, exist_ok=True)
        (run_folder / "config.yaml").write_text(config.to_yaml())
    if config.tracker != "none":
        accelerator.init_trackers("slap-finetune", {"config": config.to_yaml()})
    set_seed(config.seed)
    return config, accelerator


# ------------------------------------------------------------------------------------------------------ corpora
def open_corpora(config: FinetuneConfig, caption_column: str | None = None) -> tuple[Dataset, Dataset]:
    """The clips to learn from and those to validate with; rows of one id stay on one side."""
    corpus = load_corpus(config.train_data, config.train_split, caption_column=caption_column)
    if config.validation_data or config.validation_split:
        source = config.validation_data or config.train_data
        return corpus, load_corpus(source, config.validation_split, caption_column=caption_column)
    ids = sorted(set(corpus["id"]))
    count = max(2, round(config.validation_share * len(ids)))
    if len(ids) < count + 2:
        raise ValueError(f"{len(ids)} clips are too few to hold some out; set validation_data")
    order = np.random.default_rng((config.seed, len(ids))).permutation(len(ids))
    held_out = {ids[place] for place in order[:count]}
    sides = [[], []]
    for row, name in enumerate(corpus["id"]):
        sides[name in held_out].append(row)
    if is_main():
        print(f"no validation_data: {count} of {len(ids)} clips are held out, drawn by the seed")
    return corpus.select(sides[0]), corpus.select(sides[1])


def open_processor(source: str, text_tower: str | None = None) -> SlapProcessor:
    """The processor of a SLAP folder or Hub id, with the tokenizer of another text tower if there is one."""
    processor = SlapProcessor.from_pretrained(source)
    if text_tower is None:
        return processor
    tokenizer = AutoTokenizer.from_pretrained(text_tower)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return SlapProcessor(processor.feature_extractor, tokenizer)


def training_clips(config: FinetuneConfig, corpus: Dataset, extractor: Any, model: nn.Module) -> PretrainDataset:
    """The clips of an epoch, augmented as `clips:` says, without masked patches."""
    audio = model.config.audio_config
    settings = ClipSettings(
        **config.clips,
        seed=config.seed,
        max_seconds=audio.max_audio_seconds,
        patch_frames=audio.patch_frames,
        patch_bins=audio.patch_bins,
    )
    return PretrainDataset(corpus, extractor, _no_patch_mask, settings)


def _no_patch_mask(columns: int, rows: int, ratio: float, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(columns * rows, dtype=bool)


def training_loader(
    config: FinetuneConfig,
    clips: torch.utils.data.Dataset,
    durations: Sequence[float],
    max_seconds: float,
    collate: Callable,
) -> tuple[DataLoader, list[int]]:
    """This rank's batches of all epochs, and the step that each epoch ends with."""

    def plan(epoch: int) -> list[list[int]]:
        seconds = config.batch_seconds or float("inf")
        smallest = min(max(2, world_size()), config.batch_clips)
        return plan_epoch(durations, seconds, config.seed, epoch, max_seconds, config.batch_clips, smallest)

    def batches() -> Iterator[list]:
        for epoch in range(config.epochs):
            yield from rank_batches(plan(epoch), durations, epoch, rank(), world_size(), max_seconds)

    loader = DataLoader(
        clips,
        batch_sampler=batches(),
        collate_fn=collate,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, or starting the loader would draw from torch's random state
    )
    return loader, list(itertools.accumulate(len(plan(epoch)) for epoch in range(config.epochs)))


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
    config: FinetuneConfig,
    batch_seconds: float = 120.0,
) -> dict[int, Any]:
    """Calls `function` with batches of whole clips, without gradients; every rank computes all of them.

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
    loader = DataLoader(
        _WholeClips(corpus, extractor), batch_sampler=batches, collate_fn=list, num_workers=config.workers,
        generator=torch.Generator(),
    )  # fmt: skip
    results = {}
    for clips in loader:
        if is_main():
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
    if not results:
        raise ValueError("not one clip of the corpus can be heard; see skipped_clips.jsonl")
    return dict(sorted(results.items()))


# -------------------------------------------------------------------------------------------------------- model
def prepare_model(
    config: FinetuneConfig,
    model: PreTrainedModel,
    report: Sequence[PartRow],
    unused: Sequence[str],
    new_parts: Sequence[str] = (),
) -> nn.Module:
    """Freezes what shall be, wraps the model for LoRA if asked, and tells where the run starts.

    Args:
        model: from `load_start`; report: its rows.
        unused: patterns of parameters that the loss does not reach.
        new_parts: names of modules that LoRA trains in full, such as a new classification head.
    Returns:
        the model, or a `peft.PeftModel` around it.
    """
    freeze(model, unused)
    freeze(model, config.frozen)
    if config.gradient_checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    if config.lora is not None:
        model = wrap_lora(model, LoraSettings(**config.lora), config.model, config.frozen, new_parts)
    if is_main():
        print("\n".join(report_lines(report, model)))
        trained, total = trainable_share(model)
        told = {"parts": [row._asdict() for row in report], "frozen": config.frozen, "trained": trained, "total": total}
        (Path(config.run_folder) / "start.json").write_text(json.dumps(told, indent=1) + "\n")
    return model


def wrap_lora(
    model: PreTrainedModel,
    settings: LoraSettings,
    base: str,
    frozen: Sequence[str] = (),
    new_parts: Sequence[str] = (),
) -> nn.Module:
    """The model with low-rank adapters, everything else frozen.

    Args:
        base: folder or Hub id that the adapter is to be loaded on; a folder is written down with its full path.
        frozen, new_parts: as in `prepare_model`.
    Raises:
        ImportError: peft is missing.
        ValueError: `target_modules` matches no layer.
    """
    if importlib.util.find_spec("peft") is None:
        raise ImportError("lora needs the package peft: `pip install peft`, or set lora=null to train all weights")
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_quantized", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        exclude_modules=rf".*({'|'.join(frozen)}).*" if frozen else None,
        modules_to_save=list(new_parts) or None,  # no task type: its wrappers pass arguments that our models lack
    )
    wrapped = get_peft_model(model, lora)
    wrapped.peft_config["default"].base_model_name_or_path = os.path.abspath(base) if os.path.isdir(base) else base
    return wrapped


def is_adapted(model: nn.Module) -> bool:
    return hasattr(model, "merge_and_unload")


# --------------------------------------------------------------------------------------------------------- loop
def fit(
    config: FinetuneConfig,
    accelerator: Accelerator,
    model: nn.Module,
    loader: DataLoader,
    epoch_ends: Sequence[int],
    loss_of: Callable[[nn.Module, dict], Tensor],
    validate: Callable[[], tuple[dict[str, float], list[str]]],
    best: tuple[str, Callable],
    processor: SlapProcessor,
) -> Path:
    """Trains, validates after every `validate_every` epochs, and saves whenever the validation is the best so far.

    Args:
        loader, epoch_ends: from `training_loader`.
        loss_of: (wrapped model, batch on the device) -> (), such that the mean over ranks is that of the whole batch.
        validate: -> numbers by name, and lines to show; called in evaluation mode without gradients.
        best: the number that decides, and `min` or `max`.
        processor: saved beside the weights.
    Returns:
        the folder of the best model, or of its adapter.
    """
    steps, run_folder, started = epoch_ends[-1], Path(config.run_folder), time.monotonic()
    ends = {step: epoch for epoch, step in enumerate(epoch_ends, start=1)}
    warmup = round(steps * config.warmup_epochs / config.epochs)
    optimizer = build_optimizer(config, model)
    wrapped, prepared_optimizer = accelerator.prepare(model, optimizer)
    target = run_folder / ("adapter" if is_adapted(model) else "model")
    measure, better = best
    record = None

    def validate_and_save(log: TrainingLog, step: int) -> None:
        nonlocal record
        model.eval()
        with torch.no_grad():
            values, lines = validate()
        model.train()
        log.validation(step, values)
        if is_main():
            for line in lines:
                log.console.print(line, highlight=False, markup=False)
        if record is None or (values[measure] != record and better(values[measure], record) == values[measure]):
            record = values[measure]
            if is_main():
                save_model(target, model, processor)
        wait_for_everyone()

    with TrainingLog(run_folder, steps, 0, accelerator.log, is_main()) as log:
        validate_and_save(log, 0)
        for step, batch in enumerate(loader):
            note_skipped(batch["skipped"], run_folder)
            batch = {k: v.to(accelerator.device) if torch.is_tensor(v) else v for k, v in batch.items()}
            rate = learning_rate(step, config.learning_rate, warmup, steps, config.learning_rate / 100)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_scale"]
            loss = loss_of(wrapped, batch)
            refuse_not_finite(step, loss, batch["ids"])
            accelerator.backward(loss)
            limit = config.gradient_clip if config.gradient_clip is not None else float("inf")
            gradient_norm = accelerator.clip_grad_norm_(wrapped.parameters(), limit)
            prepared_optimizer.step()
            if hasattr(model, "clamp_logit_scale"):
                model.clamp_logit_scale()
            prepared_optimizer.zero_grad()
            done = step + 1
            heard = sum_over_ranks(torch.tensor(batch["audio_seconds"], device=accelerator.device, dtype=torch.float32))
            log.heard(done, float(heard))
            if done % config.log_every == 0 or done == steps:
                mean = float(sum_over_ranks(loss.detach())) / world_size()
                log.train(done, {"total": mean, "gradient_norm": float(gradient_norm), "learning_rate": rate})
            if done in ends and (ends[done] % config.validate_every == 0 or done == steps):
                validate_and_save(log, done)

    if is_adapted(model) and config.lora["save_merged"] and not config.quantization:
        if is_main():
            save_merged(run_folder / "model", target, model, processor)
    if is_main():
        print_result(run_folder, measure, better, time.monotonic() - started)
        print(f"curves: {draw_curves(run_folder)}")
    wait_for_everyone()
    accelerator.end_training()
    return target


def build_optimizer(config: FinetuneConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD over `starting_points.layerwise_groups`."""
    groups = layerwise_groups(model, config.weight_decay, config.layer_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=config.epsilon)


def refuse_not_finite(step: int, loss: Tensor, ids: Sequence[str]) -> None:
    """Stops the run on every rank where the loss is not finite, naming the clips; the best model is saved already."""
    error = None
    if not torch.isfinite(loss):
        error = FloatingPointError(
            f"the loss of step {step + 1} is {loss.item()}; clips {list(ids)}. Lower learning_rate, or leave these "
            "clips out"
        )
    raise_together(error)


# ------------------------------------------------------------------------------------------------ what is left
def save_model(folder: Path, model: nn.Module, processor: SlapProcessor) -> None:
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


def save_merged(folder: Path, adapter: Path, model: nn.Module, processor: SlapProcessor) -> None:
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
