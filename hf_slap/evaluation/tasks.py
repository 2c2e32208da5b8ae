"""What a task is: clips, labels or captions, prompts, and the score. Nothing here opens a file."""

import dataclasses
import re
from collections.abc import Mapping

METRICS = {  # the metrics a kind of task can be headed by
    "zero_shot": ("accuracy", "mAP", "F1"),
    "retrieval": ("recall@1", "recall@5", "recall@10", "map@10"),
    "captioning": ("CIDEr-D", "SPIDEr", "SPICE", "METEOR", "BLEU-4", "ROUGE-L", "FENSE"),
    "probe": ("accuracy", "mAP"),
    "events": ("segment mAP", "segment F1"),
    "localisation": ("AUROC", "AP", "pointing"),
    "mteb": ("mean",),
    "elsewhere": ("accuracy", "mAP"),
}
POOLINGS = ("mean", "attention", "knn")
WAYS = ("text_to_audio", "audio_to_text")


@dataclasses.dataclass(frozen=True)
class Task:
    """One line of a table, declared. A misspelt or contradictory task is refused when it is made.

    Args:
        name: of the score, unique in a suite.
        kind: "zero_shot": labels as texts; "retrieval": captions find clips, or clips captions; "captioning";
            "probe": a classifier on frozen features; "events": a classifier of frozen features over time;
            "localisation": when in a clip a text is heard; "mteb": a benchmark of mteb; "elsewhere": the protocol
            changes the weights or needs a judge, so this suite can only say what to run.
        data: a key of `sets.SETS`; of "mteb" the benchmark's name.
        metric: the score that heads the line; the others of its kind are kept beside it.
        source: where the protocol comes from, and what of it is not stated there.
        split: of the clips to judge by.
        expected: clips that the protocol's test set has; another number is noted, never hidden.
        prompts: texts of a label with {} in its place; several are an ensemble, averaged as unit vectors.
        words: {label as the data have it: words for the prompt}; others lose their "_" and capitals.
        multi_label: a clip may have several labels.
        only: labels that take part; None: all.
        ids: of the clips that take part, by the end of their name ("blues.00012"); None: all.
        label_pattern: a regular expression whose group, found in the clip's id, is its label.
        skip_labels: labels of the data that come before those meant.
        max_seconds: clips are cut to their beginning; None: they are heard in full, long ones by the model's own rule,
            which the score names.
        measures: of captioning; None: all there are.
        way: of retrieval; None: both, headed by text to audio.
        folds: name of a column; each fold is judged by a classifier of the others. None: train and test splits.
        fold_pattern: a regular expression whose group, found in the sound's path, is the fold where there is no column.
        train: (data, split) that a probe learns from; data "" is the task's own.
        pooling: of a probe: "mean" of the dense features, learned multi-head "attention", or "knn" on the mean.
        shots: clips of a class that a probe learns from, drawn several times; 0: all.
        reported: {model: value} that papers state for this line, as shares.
    """

    name: str
    kind: str
    data: str
    metric: str
    source: str
    split: str = "test"
    expected: int | None = None
    prompts: tuple[str, ...] = ("{}",)
    words: Mapping[str, str] = dataclasses.field(default_factory=dict)
    multi_label: bool = False
    only: tuple[str, ...] | None = None
    ids: frozenset[str] | None = None
    label_pattern: str | None = None
    skip_labels: int = 0
    max_seconds: float | None = None
    measures: tuple[str, ...] | None = None
    way: str | None = None
    folds: str | None = None
    fold_pattern: str | None = None
    train: tuple[str, str] = ("", "train")
    pooling: str = "mean"
    shots: int = 0
    reported: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        def refuse(field: str, accepted: str):
            raise ValueError(f"task {self.name!r}: {field} is {getattr(self, field)!r}; accepted is {accepted}")

        if self.kind not in METRICS:
            refuse("kind", f"one of {list(METRICS)}")
        if self.metric not in METRICS[self.kind]:
            refuse("metric", f"one of {METRICS[self.kind]} for {self.kind}")
        if self.metric == "accuracy" and self.multi_label or self.metric == "mAP" and not self.multi_label:
            refuse("metric", "accuracy or F1 where a clip has one label, mAP or F1 where multi_label")
        if not self.prompts or any(prompt.count("{}") != 1 for prompt in self.prompts):
            refuse("prompts", "texts with {} once")
        for field in ("label_pattern", "fold_pattern"):
            if getattr(self, field) is not None and re.compile(getattr(self, field)).groups != 1:
                refuse(field, "a regular expression with one group")
        if self.pooling not in POOLINGS:
            refuse("pooling", f"one of {POOLINGS}")
        if self.way not in (None, *WAYS):
            refuse("way", f"one of {WAYS}, or None")
        if self.shots and (self.multi_label or self.pooling != "mean"):
            refuse("shots", "0, unless a clip has one label and pooling is 'mean'")

    def texts(self, label: str) -> list[str]:
        """What the model reads for a label, one text per prompt."""
        words = self.words.get(label, label.replace("_", " ").lower())
        return [prompt.format(words) for prompt in self.prompts]

    def declaration(self) -> dict:
        """The task as plain values: what differs from the defaults."""
        values = {}
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            if value != default:
                values[field.name] = _plain(value)
        return values


def _plain(value):
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value
