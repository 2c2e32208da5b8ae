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

from .data import ClipSettings
from .objectives import CENTERINGS, MASK_KINDS

# Of `ClipSettings`: follow from `seed` and from the model.
_DERIVED_CLIP_SETTINGS = ("seed", "max_seconds", "patch_frames", "patch_bins")
# Fields that may change when a run is resumed: they say what is watched and written, not what is computed.
_FREE_TO_CHANGE = (
    "run_folder", "stop_step", "workers", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints",
    "tracker", "validation_data", "validation_split", "zero_shot_prompt",
)  # fmt: skip


@dataclasses.dataclass
class TrainConfig:
    """Everything that a pretraining run owns.

    "P": stated in the paper; "A": not stated, chosen as its precedent does.

    Args:
        train_data: corpus to learn from: parquet file(s), folder or Hub id, see `data.load_corpus`.
        train_split: which split of it; needed where there are several.
        validation_data: held-out corpus for validation by retrieval; None: no validation.
        validation_split: as `train_split`.
        run_folder: where checkpoints, metrics, pictures and the exported model go.
        text_model: Hub id or folder the text tower starts from; None: `model.text_config`, from scratch.
        tokenizer: Hub id or folder; "captions" trains a small one on the training captions.
        max_caption_tokens: longer captions are cut.
        model: keywords of `SlapConfig`.
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
        batch_seconds: seconds of audio in one optimizer step, over all processes.
        max_batch_clips: no more clips than this in one step; None: no limit.
        total_steps: optimizer steps of the whole run; all schedules refer to it.
        stop_step: leave after this step with a checkpoint, as if interrupted; None: at `total_steps`.
        peak_learning_rate, min_learning_rate, warmup_steps: linear warm-up, then cosine.
        beta1, beta2, epsilon, weight_decay: of AdamW; decay on matrices only (`optimization.NO_DECAY`).
        gradient_clip: largest norm of the gradient of a step.
        precision: "auto" is bfloat16 where the device computes it well, else float32; or "bf16", "float32".
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a quarter
            slower.
        compile_layers: compile the layers of the audio encoder (torch.compile), worth it on a GPU.
        seed: of weights, order of clips and all draws.
        workers: loader processes of each rank.
        log_every, validate_every, checkpoint_every: steps between lines of the log, validations, checkpoints.
        keep_checkpoints: the last so many are kept.
        tracker: any tracker of Accelerate by name ("tensorboard", "wandb", "trackio", ...), or "none".
        zero_shot_prompt: template of the texts for validation by zero-shot classification, with "{label}".
    Raises:
        ValueError: unknown keys, wrong types, values outside their range; the message lists what is accepted.
    """

    train_data: str | list[str] = ""
    train_split: str | None = None
    validation_data: str | list[str] | None = None
    validation_split: str | None = None
    run_folder: str = "runs/slap"

    text_model: str | None = "answerdotai/ModernBERT-base"  # P
    tokenizer: str = "answerdotai/ModernBERT-base"  # A
    max_caption_tokens: int = 128  # A
    model: dict = dataclasses.field(default_factory=dict)
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

    batch_seconds: float = 20_480.0  # P: 2,048 clips; A: of 10 s on average
    max_batch_clips: int | None = None
    total_steps: int = 106_445  # P: 2 epochs of 109 M clips
    stop_step: int | None = None
    peak_learning_rate: float = 1e-4  # P
    min_learning_rate: float = 1e-6  # A: WavLink, DINOv3
    warmup_steps: int = 2000  # P
    beta1: float = 0.9  # A
    beta2: float = 0.98  # A: CLIP
    epsilon: float = 1e-6  # A: for bfloat16
    weight_decay: float = 0.05  # A: M2D-CLAP
    gradient_clip: float = 1.0  # A
    precision: str = "auto"  # A: bfloat16
    gradient_checkpointing: bool = False
    compile_layers: bool = False

    seed: int = 0
    workers: int = 4
    log_every: int = 10
    validate_every: int = 1000
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
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
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} is {getattr(self, name)!r}; accepted are {list(accepted)}")
        for name in (
            "batch_seconds", "total_steps", "peak_learning_rate", "student_temperature", "teacher_temperature_start",
            "teacher_temperature_end", "gradient_clip", "log_every", "validate_every", "checkpoint_every",
            "keep_checkpoints", "max_caption_tokens",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        for name, weight in self.loss_weights.items():
            if weight < 0:
                raise ValueError(f"{name}_weight is {weight}; it must not be negative")
        if not any(self.loss_weights.values()):
            raise ValueError("contrastive_weight, masked_weight and caption_weight are all 0; nothing would be learned")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}; it must be less than total_steps, {self.total_steps}"
            )
        for name in ("teacher_momentum_start", "teacher_momentum_end", "teacher_temperature_warmup", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.workers < 0 or (self.stop_step or 1) < 1 or (self.max_batch_clips or 2) < 2:
            raise ValueError(
                f"workers={self.workers}, stop_step={self.stop_step}, max_batch_clips={self.max_batch_clips}: workers "
                "must be at least 0, stop_step at least 1 and max_batch_clips at least 2"
            )
        if not 0 <= self.min_learning_rate <= self.peak_learning_rate:
            raise ValueError(
                f"min_learning_rate={self.min_learning_rate} must lie between 0 and peak_learning_rate="
                f"{self.peak_learning_rate}"
            )
        if "{label}" not in self.zero_shot_prompt:
            raise ValueError(f"zero_shot_prompt is {self.zero_shot_prompt!r}; it must contain {{label}}")

    @classmethod
    def load(cls, path: str | Path | None = None, overrides: Sequence[str] = ()) -> "TrainConfig":
        """Reads a YAML file and applies `key=value` overrides; dots reach into `model` and `clips`.

        Args:
            path: of the file; None: the defaults.
            overrides: such as "total_steps=20" or "model.audio_config.hidden_size=192"; values are YAML.
        Raises:
            ValueError: as the class, and for a file or override that cannot be read.
        """
        config = cls(**read_values(cls, path, overrides))
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

    def settings(self) -> dict:
        """What must stay the same when the run is resumed: all that shapes the result."""
        settings = {name: v for name, v in dataclasses.asdict(self).items() if name not in _FREE_TO_CHANGE}
        del settings["clips"]["cache_mb"]
        return settings

    def to_yaml(self) -> str:
        """The resolved configuration, which `load` reads back to the same."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False, allow_unicode=True)


def read_values(kind: type, path: str | Path | None, overrides: Sequence[str]) -> dict:
    """The fields of a configuration class that a YAML file and `key=value` overrides set; unknown keys are refused."""
    values = {}
    if path is not None:
        values = yaml.safe_load(Path(path).read_text()) or {}
        if not isinstance(values, dict):
            raise ValueError(f"{path} holds {type(values).__name__}; expected `key: value` lines")
    for override in overrides:
        apply_override(values, override)
    refuse_unknown(values, [field.name for field in dataclasses.fields(kind)], "")
    return values


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
