"""Supervised audio pretraining on several tasks at once: one audio tower, a head for each task.

The heads are rows of one linear layer, the classifier of a `SlapForAudioClassification` whose classes are named
"task: class"; so the run's folder is a model like any other, and its audio tower a start for pretraining. A step has
clips of every task: what one task is taught, no other forgets in the meantime.

Paper: CLAP 2023 (HTSAT-22: 22 audio tasks) and CaptionStew (encoder from an AudioSet tagger). Not stated: which heads,
how tasks are sampled and weighed.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn

from .classification import (
    Classes,
    LabelledClip,
    LabelledClips,
    MixedRef,
    classification_loss,
    draw_pairs,
    pack_clips,
    read_classes,
)
from .data import SkippedClip, run_batches
from .distributed import share_of_mean
from .fitting import LoopConfig, my_part, open_corpora
from .modeling.modeling_slap import SlapForAudioClassification
from .training_config import checked, clip_settings, refuse_unknown


@dataclasses.dataclass
class TaskSettings:
    """One task: a column of a corpus.

    Args:
        train_data, train_split, validation_data, validation_split: as in `LoopConfig`; without `train_data` the corpora
            are those of the run.
        label_column: names, class numbers, or lists of them.
        label_separator: between the labels of one clip in a string, such as ";"; null: a string is one label.
        multi_label: a clip may have several classes (a sigmoid for each) or has one (a softmax over all); null: several
            if some clip has.
        weight: of the task's loss, the mean over its clips.
        clips: keywords of `data.ClipSettings` that differ from the run's, such as `mix_probability`.
    Raises:
        ValueError: unknown keys, wrong types, a weight that is not positive.
    """

    train_data: str | list[str] | None = None
    train_split: str | None = None
    validation_data: str | list[str] | None = None
    validation_split: str | None = None
    label_column: str = "label"
    label_separator: str | None = None
    multi_label: bool | None = None
    weight: float = 1.0
    clips: dict = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, name: str, given: Mapping) -> "TaskSettings":
        """The settings of the task `name` from its keywords."""
        fields, prefix = dataclasses.fields(cls), f"tasks.{name}."
        if not isinstance(given, Mapping):
            raise ValueError(f"tasks.{name} is {given!r}; expected keywords such as label_column: label")
        refuse_unknown(given, [field.name for field in fields], prefix)
        kinds = {field.name: field.type for field in fields}
        settings = cls(**{key: checked(prefix + key, value, kinds[key]) for key, value in given.items()})
        clip_settings(settings.clips)  # checks names and ranges
        if not settings.weight > 0:
            raise ValueError(f"{prefix}weight is {settings.weight}; it must be positive")
        if settings.train_data is None and (
            settings.validation_data or settings.train_split or settings.validation_split
        ):
            raise ValueError(f"{prefix}train_data is not set, so its splits and validation_data must not be either")
        return settings


class Task(NamedTuple):
    """A task with its clips.

    Args:
        name: of the task.
        settings: as they were given.
        corpus, held_out: from `load_corpus`, labels as captions.
        classes: of both.
        columns: of the classifier that are the task's head.
    """

    name: str
    settings: TaskSettings
    corpus: Dataset
    held_out: Dataset
    classes: Classes
    columns: slice

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of the task's clips (n, all classes), such that the mean over ranks is that over all clips; 0 where
        a rank has none."""
        share = share_of_mean(len(logits))
        if not len(logits):
            return logits.sum()
        mine = (logits[:, self.columns], targets[:, self.columns])
        return classification_loss(*mine, self.classes.multi_label) * share


def open_tasks(config: LoopConfig, tasks: Mapping[str, Mapping]) -> list[Task]:
    """Opens the corpora of all tasks and gives each its columns, in the order of the configuration.

    Raises:
        ValueError: a task without a corpus; labels as in `read_classes`; the message says whose.
    """
    opened, column = [], 0
    for name, given in tasks.items():
        settings = TaskSettings.of(name, given)
        source = config
        if settings.train_data is not None:
            own = ("train_data", "train_split", "validation_data", "validation_split")
            source = dataclasses.replace(config, **{key: getattr(settings, key) for key in own})
        elif not config.train_data:
            raise ValueError(f"tasks.{name}.train_data is not set, and the run's train_data neither")
        corpus, held_out = open_corpora(source, config.seed, settings.label_column)
        try:
            classes = read_classes(corpus, held_out, settings.label_separator, settings.multi_label)
        except ValueError as problem:
            raise ValueError(f"task {name}: {problem}") from problem
        columns = slice(column, column + len(classes.names))
        opened.append(Task(name, settings, corpus, held_out, classes, columns))
        column = columns.stop
    return opened


def class_names(tasks: Sequence[Task]) -> dict[int, str]:
    """{column of the classifier: "task: class"}."""
    return dict(enumerate(f"{task.name}: {name}" for task in tasks for name in task.classes.names))


# ------------------------------------------------------------------------------------------------------ batches
def clips_per_task(tasks: Sequence[Task], batch_clips: int, balance: float) -> list[int]:
    """How many clips of a step belong to each task: in proportion to (clips of its corpus) ** balance, at least 2.

    Args:
        balance: 1: as large as their corpora; 0: all alike. Not stated; 0.5 lies between, as is usual for languages.
    """
    sizes = np.array([len(task.corpus) for task in tasks], dtype=np.float64) ** balance
    return [max(2, round(batch_clips * share)) for share in sizes / sizes.sum()]


def task_batches(
    config: LoopConfig, tasks: Sequence[Task], balance: float, mixup: float, max_seconds: float, first: int, last: int
) -> Iterator[list[tuple[int, MixedRef]]]:
    """This rank's part of the steps `first` <= step < `last`: (number of the task, clip with its partner) of each clip.

    Every task goes through its corpus again and again in its own order: a function of (seed, task) alone.
    """
    counts = clips_per_task(tasks, config.batch_clips, balance)
    streams, durations = [], [np.asarray(task.corpus["duration"]) for task in tasks]
    for number, count in enumerate(counts):
        limit = config.batch_seconds * count / sum(counts) if config.batch_seconds else float("inf")
        seed = config.seed * len(tasks) + number
        streams.append(
            run_batches(durations[number], limit, seed, first, last, max_seconds=max_seconds, max_clips=count)
        )
    for step in zip(*streams, strict=True):
        refs = []
        for number, batch in enumerate(step):
            mine = set(my_part(batch, durations[number], max_seconds))
            pairs = draw_pairs(batch, mixup, config.seed * len(tasks) + number)
            refs += [(number, pair) for pair in pairs if pair.clip in mine]
        yield refs


class TaskClips(torch.utils.data.Dataset):
    """The clips of all tasks, their targets in the columns of their task.

    Args:
        clips: of each task.
        tasks: as many.
    """

    def __init__(self, clips: Sequence[LabelledClips], tasks: Sequence[Task]):
        self.clips, self.columns, self.width = clips, [task.columns for task in tasks], tasks[-1].columns.stop

    def __getitems__(self, batch: Sequence[tuple[int, MixedRef]]) -> list[tuple[int, LabelledClip | SkippedClip]]:
        items = []
        for number, clips in enumerate(self.clips):
            for clip in clips.__getitems__([pair for task, pair in batch if task == number]):
                if isinstance(clip, LabelledClip):
                    target = np.zeros(self.width, dtype=np.float32)
                    target[self.columns[number]] = clip.target
                    clip = clip._replace(target=target)
                items.append((number, clip))
        return items


def pack_tasks(items: Sequence[tuple[int, LabelledClip | SkippedClip]]) -> dict:
    """`pack_clips`, and under "task_clips" {number of the task: its clips}, less the tasks of which this rank has
    none; the clips of a task follow one another."""
    kept = [number for number, clip in items if isinstance(clip, LabelledClip)]
    return {**pack_clips([clip for _, clip in items]), "task_clips": {n: kept.count(n) for n, _ in items}}


# ------------------------------------------------------------------------------------------------- what is left
def one_task(folder: str, task: str, multi_label: bool = False) -> SlapForAudioClassification:
    """The model of a supervised run with the head of one task: ready for `save_pretrained` and the pipelines.

    Args:
        folder: that the run has left, or its Hub id.
        task: its name.
        multi_label: a sigmoid for each class, as the task was trained with; else a softmax.
    Raises:
        ValueError: no such task; the message lists those there are.
    """
    model = SlapForAudioClassification.from_pretrained(folder)
    named = {column: name.partition(": ") for column, name in model.config.id2label.items()}
    columns = [column for column, (owner, _, _) in named.items() if owner == task]
    if not columns:
        raise ValueError(f"{folder} has no task {task!r}; it has {sorted({owner for owner, _, _ in named.values()})}")
    old, head = model.classifier, nn.Linear(model.classifier.in_features, len(columns))
    with torch.no_grad():
        head.weight.copy_(old.weight[columns])
        head.bias.copy_(old.bias[columns])
    model.classifier = head.to(old.weight)
    model.config.id2label = {place: named[column][2] for place, column in enumerate(columns)}
    model.config.label2id = {name: place for place, name in model.config.id2label.items()}
    model.config.problem_type = ("multi" if multi_label else "single") + "_label_classification"
    return model.eval()
