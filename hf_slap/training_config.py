"""The configuration of a pretraining run. Its defaults are SLAP-base; a YAML file says only what differs.

Every number has one owner. The run's are the fields of `TrainConfig`. The model's are the keywords of
`SlapConfig` under `model:`, a clip's (masking, SpecAugment, other augmentation) those of `data.ClipSettings`
under `clips:`. Numbers that follow from others (patch sizes, longest clip, vocabulary) are derived and cannot
be set twice.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .data import SOURCE_WEIGHTS, ClipSettings
from .objectives import CENTERINGS, MASK_KINDS

# Of `ClipSettings`: follow from fields of `TrainConfig` and from the model.
_DERIVED_CLIP_SETTINGS = ("seed", "parallel_caption_share", "max_seconds", "patch_frames", "patch_bins")
# Fields that may change when a run is resumed: they say what is watched and written, when to give up, and how a step is
# spread (as the number of processes does), not what is computed.
_FREE_TO_CHANGE = (
    "run_folder", "stop_step", "workers", "log_every", "checkpoint_every", "keep_checkpoints",
    "average_checkpoints", "tracker", "accumulation_steps", "max_skipped_steps", "max_skipped_share",
)  # fmt: skip
# As those, unless held-out numbers decide on the learning rate or on the weights that are exported.
_OF_VALIDATION = (
    "validate_every", "validation_data", "validation_split", "zero_shot_prompt", "zero_shot_tasks", "zero_shot_data",
)  # fmt: skip
SCHEDULES = ("cosine", "plateau")
HELD_OUT = ("zero-shot score",) + (  # numbers that may decide: of the tasks, and of validation_data
    "contrastive loss", "zero-shot accuracy", "text to audio recall@1", "text to audio recall@10",
    "text to audio map@10", "audio to text recall@1", "audio to text recall@10", "audio to text map@10",
)  # fmt: skip


@dataclasses.dataclass
class TrainConfig:
    """Everything that a pretraining run owns.

    "P": stated in the paper; "A": not stated, chosen as its precedent does.

    Args:
        train_data: corpus to learn from: parquet file(s), folder or Hub id, or a list of corpora, see
            `data.load_corpus`.
        train_split: which split of it; needed where there are several.
        data_fraction: part of each source to learn from, for scaling studies; parts are nested (`data.take_fraction`).
        source_weights: how much is heard of each source: "clips", "hours" or {source: weight} (`data.clip_times`).
        balance_labels: 1: inside a source, every label is heard equally often; 0.5: as the root of its clips.
        validation_data: held-out corpus for validation by retrieval; None: no validation.
        validation_split: as `train_split`.
        zero_shot_tasks: zero-shot tasks of the suites, by name, that a validation measures too; the mean of their
            metrics is the "zero-shot score".
        zero_shot_data: where their sets are, as `data` of `evaluate`: {set: path}, or one folder that holds all.
        run_folder: where checkpoints, metrics, pictures and the exported model go.
        start_from: SLAP folder or Hub id whose weights and configuration the run begins with; then `tokenizer` is
            its own and `text_model` null unless said. None: from scratch, or tower by tower.
        audio_from: folder or Hub id whose audio encoder, with its configuration, the audio tower starts from: of a
            SLAP model, a supervised classifier, or the encoder alone. None: `model.audio_config`, from scratch.
        text_model: Hub id or folder the text tower starts from; None: `model.text_config`, from scratch.
        tokenizer: Hub id or folder; "captions" trains a small one on the training captions.
        max_caption_tokens: longer captions are cut.
        model: keywords of `SlapConfig`; sizes of parts that are loaded come from where they are loaded from.
        frozen: regular expressions; parameters in whose name one is found stay as they are.
        clips: keywords of `data.ClipSettings`.
        mask_kind: shape of the student's masks, "random" or "block".
        contrastive_weight, masked_weight, caption_weight: parts of the loss; 0 leaves a part out.
        shared_masked_pass: all losses read the masked pass: about half the compute, another objective.
        centering: of the teacher's targets, "sinkhorn" or "softmax".
        student_temperature: of the student's prototype scores.
        teacher_temperature_start, teacher_temperature_end, teacher_temperature_warmup: linear over that share
            of the steps, then constant.
        teacher_momentum_start, teacher_momentum_end: of the EMA teacher, cosine.
        freeze_prototypes_steps: steps in which the prototypes stay where they are.
        label_smoothing: of the caption loss.
        parallel_caption_share: share of the captions that the decoder learns to write at once, from the sound alone,
            and not token by token (CaptionStew, CapPa: 0.75); above 0 the decoder has an embedding for it.
        batch_seconds: seconds of audio in one optimizer step, over all processes.
        accumulation_steps: micro-batches that each process cuts its part of a step into: less memory, the same loss
            with all its negatives, about a third more compute (`gradient_cache`).
        max_batch_clips: no more clips than this in one step; None: no limit.
        total_steps: optimizer steps of the whole run; all schedules refer to it.
        stop_step: leave after this step with a checkpoint, as if interrupted; None: at `total_steps`.
        schedule: "cosine", or "plateau": constant until a held-out number gets no better, then lower.
        peak_learning_rate, min_learning_rate, warmup_steps: linear warm-up to the peak, then down to the minimum.
        plateau_on: the held-out number that schedule "plateau" watches, one of `HELD_OUT`.
        plateau_factor, plateau_patience: the rate is multiplied by this when so many validations in a row, and one
            more, bring no better number.
        layer_decay: learning rate of a tower's layer relative to the one above it, see
            `starting_points.layer_scales`; 1: all learn alike.
        beta1, beta2, epsilon, weight_decay: of AdamW; decay on matrices only (`optimization.NO_DECAY`).
        gradient_clip: largest norm of the gradient of a step.
        max_skipped_steps: a step whose loss or gradient is not finite is skipped; so many in a row stop the run. Chosen
            because where one batch in ten is bad, ten in a row still come once in 10^10 steps: they mean that the
            weights are lost.
        max_skipped_share: so large a share of the steps stops it too, once there are more than `max_skipped_steps` of
            them. Chosen because more would silently be another corpus.
        precision: "auto" is bfloat16 where the device computes it well, else float32; or "bf16", "float32".
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a quarter
            slower.
        compile_layers: compile the layers of the audio encoder (torch.compile), worth it on a GPU.
        seed: of weights, order of clips and all draws.
        workers: loader processes of each rank.
        log_every, validate_every, checkpoint_every: steps between lines of the log, validations, checkpoints.
        keep_checkpoints: the last so many are kept.
        average_checkpoints: the exported model is the mean of the last so many (`checkpoint.average_weights`).
        select_by: the exported model is that of the validation with the best of this number, one of `HELD_OUT`; None:
            the last one.
        tracker: any tracker of Accelerate by name ("tensorboard", "wandb", "trackio", ...), or "none".
        zero_shot_prompt: template of the texts for validation by zero-shot classification, with "{label}".
    Raises:
        ValueError: unknown keys, wrong types, values outside their range; the message lists what is accepted.
    """

    train_data: str | list[str] = ""
    train_split: str | None = None
    data_fraction: float = 1.0
    source_weights: str | dict = "clips"  # A: CaptionStew's framework weighs by hours
    balance_labels: float = 0.0
    validation_data: str | list[str] | None = None
    validation_split: str | None = None
    zero_shot_tasks: list[str] = dataclasses.field(default_factory=list)
    zero_shot_data: str | dict | None = None
    run_folder: str = "runs/slap"

    start_from: str | None = None  # P: from scratch
    audio_from: str | None = None  # P: from scratch
    text_model: str | None = "answerdotai/ModernBERT-base"  # P
    tokenizer: str = "answerdotai/ModernBERT-base"  # A
    max_caption_tokens: int = 128  # A
    model: dict = dataclasses.field(default_factory=dict)
    frozen: list[str] = dataclasses.field(default_factory=list)
    clips: dict = dataclasses.field(default_factory=dict)

    mask_kind: str = "random"  # P
    contrastive_weight: float = 1.0  # P
    masked_weight: float = 1.0  # P
    caption_weight: float = 0.5  # P
    shared_masked_pass: bool = False  # A: SigLIP 2 and TIPS align on the clean view
    centering: str = "sinkhorn"  # A: DINOv2 ViT-L
    student_temperature: float = 0.1  # A: DINOv2
    teacher_temperature_start: float = 0.04  # A: DINOv2
    teacher_temperature_end: float = 0.07  # A: DINOv2
    teacher_temperature_warmup: float = 0.3  # A: DINOv2, scaled to the length of the run
    teacher_momentum_start: float = 0.994  # P
    teacher_momentum_end: float = 1.0  # P
    freeze_prototypes_steps: int = 1000  # A: DINO's first epoch, here 1 % of the steps
    label_smoothing: float = 0.0  # A: CapPa
    parallel_caption_share: float = 0.0  # P: causal

    batch_seconds: float = 20_480.0  # P: 2,048 clips; A: of 10 s on average
    accumulation_steps: int = 1
    max_batch_clips: int | None = None
    total_steps: int = 106_445  # P: 2 epochs of 109 M clips
    stop_step: int | None = None
    schedule: str = "cosine"  # A
    peak_learning_rate: float = 1e-4  # P
    min_learning_rate: float = 1e-6  # A: WavLink, DINOv3
    warmup_steps: int = 2000  # P
    plateau_on: str = "contrastive loss"  # not stated by CLAP 2023
    plateau_factor: float = 0.1  # CLAP 2023
    plateau_patience: int = 15  # CLAP 2023
    layer_decay: float = 1.0  # A
    beta1: float = 0.9  # A
    beta2: float = 0.98  # A: CLIP
    epsilon: float = 1e-6  # A: for bfloat16
    weight_decay: float = 0.05  # A: M2D-CLAP
    gradient_clip: float = 1.0  # A
    max_skipped_steps: int = 10
    max_skipped_share: float = 0.01
    precision: str = "auto"  # A: bfloat16
    gradient_checkpointing: bool = False
    compile_layers: bool = False

    seed: int = 0
    workers: int = 4
    log_every: int = 10
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    average_checkpoints: int = 1  # A
    select_by: str | None = None  # A: the last
    tracker: str = "tensorboard"
    zero_shot_prompt: str = "{label} can be heard"  # A: EVAR, WavCaps

    def __post_init__(self):
        for field in dataclasses.fields(self):
            setattr(self, field.name, checked(field.name, getattr(self, field.name), field.type))
        self.clips = clip_settings(self.clips)
        for name, accepted in (
            ("mask_kind", MASK_KINDS),
            ("centering", CENTERINGS),
            ("precision", ("auto", "bf16", "float32")),
            ("schedule", SCHEDULES),
            ("plateau_on", HELD_OUT),
            ("select_by", (None, *HELD_OUT)),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {list(accepted)}")
        for name, measure in self._deciding.items():
            needed = "zero_shot_tasks" if measure == "zero-shot score" else "validation_data"
            if not (getattr(self, needed) and self.contrastive_weight):
                raise ValueError(f"{name}={measure!r} needs {needed}, and a contrastive_weight, to be measured at all")
        if self.select_by and self.average_checkpoints > 1:
            raise ValueError(
                f"select_by={self.select_by!r} exports one validation's weights, average_checkpoints="
                f"{self.average_checkpoints} a mean of the last; set one of them only"
            )
        for name in (
            "batch_seconds", "total_steps", "peak_learning_rate", "student_temperature", "teacher_temperature_start",
            "teacher_temperature_end", "gradient_clip", "log_every", "validate_every", "checkpoint_every",
            "keep_checkpoints", "max_caption_tokens", "data_fraction", "accumulation_steps", "max_skipped_steps",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not self.data_fraction <= 1 or (
            isinstance(self.source_weights, str) and self.source_weights not in SOURCE_WEIGHTS
        ):
            raise ValueError(
                f"data_fraction={self.data_fraction}, source_weights={self.source_weights!r}: data_fraction must be at "
                f"most 1 and source_weights one of {list(SOURCE_WEIGHTS)} or {{source: weight}}"
            )
        for name, weight in self.loss_weights.items():
            if weight < 0:
                raise ValueError(f"{name}_weight is {weight}; it must not be negative")
        if not any(self.loss_weights.values()):
            raise ValueError("contrastive_weight, masked_weight and caption_weight are all 0; nothing would be learned")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must be less than total_steps, {self.total_steps}"
            )
        for name in (
            "teacher_momentum_start", "teacher_momentum_end", "teacher_temperature_warmup", "label_smoothing",
            "parallel_caption_share", "max_skipped_share", "plateau_factor", "balance_labels",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if min(self.workers, self.plateau_patience) < 0 or (self.stop_step or 1) < 1 or (self.max_batch_clips or 2) < 2:
            raise ValueError(
                f"workers={self.workers}, plateau_patience={self.plateau_patience}, stop_step={self.stop_step}, "
                f"max_batch_clips={self.max_batch_clips}: the first two must be at least 0, stop_step at least 1 and "
                "max_batch_clips at least 2"
            )
        if not 0 <= self.min_learning_rate <= self.peak_learning_rate:
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate} must lie between 0 and peak_learning_rate="
                f"{self.peak_learning_rate}"
            )
        if not 1 <= self.average_checkpoints <= self.keep_checkpoints:
            raise ValueError(
                f"average_checkpoints is {self.average_checkpoints}; it must lie between 1 and keep_checkpoints, "
                f"{self.keep_checkpoints}"
            )
        if self.start_from and (self.text_model is not None or self.tokenizer != self.start_from):
            raise ValueError(
                f"start_from={self.start_from} brings its text tower and its tokenizer: text_model must be null and "
                f"tokenizer {self.start_from}. To take some towers only, use audio_from and text_model in its place"
            )
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}; it must lie above 0 and not above 1")
        if "{label}" not in self.zero_shot_prompt:
            raise ValueError(f"zero_shot_prompt is {self.zero_shot_prompt!r}; it must contain {{label}}")

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> "TrainConfig":
        """Reads a YAML file and applies `key=value` overrides; dots reach into `model` and `clips`.

        Args:
            path: of the file, which may name another as `base` that it differs from; None: the defaults.
            overrides: such as "total_steps=20" or "model.audio_config.hidden_size=192"; values are YAML.
        Raises:
            ValueError: as the class, and for a file or override that cannot be read.
        """
        values = read_values(cls, path, overrides)
        if values.get("start_from"):
            values = {"text_model": None, "tokenizer": values["start_from"], **values}
        config = cls(**values)
        if not config.train_data:
            raise ValueError("train_data is not set: parquet file(s), a folder or a Hub id of captioned audio")
        return config

    @property
    def loss_weights(self) -> dict[str, float]:
        """{"contrastive", "masked", "caption"}: the weights of `objectives.pretraining_losses`."""
        return {
            "contrastive": self.contrastive_weight,
            "masked": self.masked_weight,
            "caption": self.caption_weight,
        }

    @property
    def _deciding(self) -> dict[str, str]:
        """The fields that let a held-out number decide, and which number."""
        deciding = {"select_by": self.select_by} if self.select_by else {}
        return {**deciding, "plateau_on": self.plateau_on} if self.schedule == "plateau" else deciding

    def settings(self) -> dict:
        """What must stay the same when the run is resumed: all that shapes the result."""
        return lasting_settings(self, _FREE_TO_CHANGE + (() if self._deciding else _OF_VALIDATION))

    def to_yaml(self) -> str:
        """The resolved configuration, which `load` reads back to the same."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def lasting_settings(config: typing.Any, free: Sequence[str]) -> dict:
    """The fields of a configuration less those that are free to change when a run is resumed."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    del settings["clips"]["cache_mb"]
    return settings


def read_values(kind: type, path: str | Path | None, overrides: Sequence[str]) -> dict:
    """The fields of a configuration class that a YAML file and `key=value` overrides set; unknown keys are refused."""
    values = {} if path is None else read_file(Path(path))
    for override in overrides:
        apply_override(values, override)
    refuse_unknown(values, [field.name for field in dataclasses.fields(kind)], "")
    return values


def read_file(path: Path, above: Sequence[Path] = ()) -> dict:
    """The keys of a YAML file over those of the file that it names as `base`, if it does; sections are joined.

    Args:
        path: of the file; a relative `base` starts from its folder.
        above: the files whose base this is.
    Raises:
        ValueError: a file without keys, or one that is its own base.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML file of `key: value` lines: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds {type(values).__name__}; expected `key: value` lines")
    base = values.pop("base", None)
    if base is None:
        return values
    chain = [*above, path.resolve()]
    if (path.parent / base).resolve() in chain:
        raise ValueError(f"{path} has base {base}, which is built upon {path} itself")
    return joined(read_file(path.parent / base, chain), values)


def joined(below: Mapping, above: Mapping) -> dict:
    """Both, the second where they differ; sections that both have are joined too."""
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], Mapping) and isinstance(above[name], Mapping):
            both[name] = joined(below[name], above[name])
    return both


def apply_override(values: dict, override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ValueError(f"override {override!r} must be key=value, such as total_steps=100")
    *sections, key = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ValueError(f"override {override!r}: {section!r} holds {values!r}, not a section")
    values[key] = yaml.safe_load(text)


def clip_settings(values: Mapping) -> dict:
    fields = [f for f in dataclasses.fields(ClipSettings) if f.name not in _DERIVED_CLIP_SETTINGS]
    refuse_unknown(values, [field.name for field in fields], "clips.")
    settings = {field.name: values.get(field.name, field.default) for field in fields}
    settings = {f.name: checked(f"clips.{f.name}", settings[f.name], f.type) for f in fields}
    ClipSettings(**settings)  # checks the ranges
    return settings


def refuse_unknown(values: Mapping, known: Sequence[str], prefix: str) -> None:
    unknown = sorted(prefix + str(name) for name in values if name not in known)
    if unknown:
        raise ValueError(f"unknown keys {unknown}; known keys are {sorted(prefix + name for name in known)}")


def checked(name: str, value: typing.Any, expected: typing.Any) -> typing.Any:
    """The value if it has the type, with whole numbers accepted where a float is meant."""
    accepted = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    for kind in accepted:
        if typing.get_origin(kind) in (list, tuple):
            inner = typing.get_args(kind)[0]
            if isinstance(value, list | tuple):
                return [checked(f"{name}[{i}]", item, inner) for i, item in enumerate(value)]
        elif kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                return float(value)  # YAML reads 1e-4 as text, since it has no point
            except ValueError:
                continue
        elif kind in (None, type(None)):
            if value is None:
                return None
        elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
            return value
    names = " or ".join("null" if k in (None, type(None)) else getattr(k, "__name__", str(k)) for k in accepted)
    raise ValueError(f"{name} is {value!r} ({type(value).__name__}); expected {names}")
