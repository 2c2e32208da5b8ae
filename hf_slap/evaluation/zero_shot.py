"""Accuracy of zero-shot classification, with its uncertainty and the classes behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .bootstrap import interval


@dataclass
class ClassRow:
    """One class of the per-class table.

    Args:
        label: its name.
        clips: clips of the class.
        accuracy: share of them that were recognised.
        mistaken_for: the class most often chosen instead, None when all were right.
    """

    label: str
    clips: int
    accuracy: float
    mistaken_for: str | None


@dataclass
class ZeroShotScores:
    """Result of `zero_shot_scores`.

    Args:
        accuracy: share of clips whose class scored highest.
        low, high: bootstrap interval of the accuracy.
        mean_class_accuracy: mean over the classes that occur.
        chance: accuracy of guessing uniformly among the candidates, 1 / classes.
        clips, classes: how many.
        macro_f1: mean F1 of the classes that occur.
        per_class: one row per class that occurs, in the order of the labels.
        confusion: (C, C), clips of a class (row) that were taken for a class (column).
    """

    accuracy: float
    low: float
    high: float
    mean_class_accuracy: float
    chance: float
    clips: int
    classes: int
    macro_f1: float
    per_class: list[ClassRow]
    confusion: np.ndarray


def zero_shot_scores(
    logits: np.ndarray,
    target: np.ndarray,
    labels: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> ZeroShotScores:
    """Accuracy of choosing the highest-scoring label.

    Args:
        logits: (N, C), similarity of each clip with each label's text.
        target: (N,), index of the right label.
        labels: C names.
        confidence: coverage of the bootstrap interval, which resamples clips.
    Returns:
        ZeroShotScores. A tie between the right label and another counts as wrong.
    Raises:
        ValueError: no clips, shapes that do not fit, scores that are not finite, targets outside the labels.
    """
    logits, target = np.asarray(logits), np.asarray(target)
    if logits.ndim != 2 or logits.shape != (len(target), len(labels)) or not len(target):
        raise ValueError(
            f"logits {logits.shape} must be (clips, labels) with at least one clip; "
            f"got {len(target)} targets and {len(labels)} labels"
        )
    if not np.isfinite(logits).all():
        raise ValueError(f"logits of clip {np.flatnonzero(~np.isfinite(logits).all(1))[0]} are not finite")
    if target.min() < 0 or target.max() >= len(labels):
        raise ValueError(f"targets run from {target.min()} to {target.max()}; there are {len(labels)} labels")

    correct = hits(logits, target)
    others = logits.astype(np.float64)  # a copy
    others[np.arange(len(target)), target] = -np.inf
    chosen = np.where(correct, target, others.argmax(1))

    low, high = interval(lambda rows: correct[rows].mean(), len(target), confidence, resamples, seed)
    confusion = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(confusion, (target, chosen), 1)
    rows = []
    for index in np.unique(target):
        mine = target == index
        wrong = chosen[mine & ~correct]
        mistaken = labels[np.bincount(wrong).argmax()] if len(wrong) else None
        rows.append(ClassRow(labels[index], int(mine.sum()), float(correct[mine].mean()), mistaken))
    return ZeroShotScores(
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        mean_class_accuracy=float(np.mean([row.accuracy for row in rows])),
        chance=1.0 / len(labels),
        clips=len(target),
        classes=len(labels),
        macro_f1=_macro_f1(confusion),
        per_class=rows,
        confusion=confusion,
    )


def hits(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the right class of a clip scored highest; a tie with another is no hit.

    Args:
        logits: (N, C).
        target: (N,), index of the right class.
    """
    rows = np.arange(len(target))
    others = logits.astype(np.float64)  # a copy
    others[rows, target] = -np.inf
    return logits[rows, target] > others.max(1)


def _macro_f1(confusion: np.ndarray) -> float:
    hits, given, answered = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    present = given > 0
    return float((2 * hits[present] / (given + answered)[present]).mean())
