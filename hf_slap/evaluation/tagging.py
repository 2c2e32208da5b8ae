"""Mean average precision of multi-label classification, with its uncertainty."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import interval


class TaggingScores(NamedTuple):
    """Result of `tagging_scores`.

    Args:
        mean_average_precision: over the classes that occur.
        low, high: bootstrap interval of it.
        chance: what random scores reach: the mean share of clips that a class has.
        clips, classes: how many; classes that never occur are not counted.
        per_class: {label: average precision}.
    """

    mean_average_precision: float
    low: float
    high: float
    chance: float
    clips: int
    classes: int
    per_class: dict[str, float]


def average_precision(scores: np.ndarray, target: np.ndarray) -> float:
    """Mean of the precision at each clip that has the class, clips in order of falling score.

    Ties are broken against the model: a clip without the class stands before one with it.

    Args:
        scores: (N,).
        target: (N,) bool, at least one True.
    """
    order = np.lexsort((target, -scores))
    hits = np.flatnonzero(target[order])
    return float(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))


def tagging_scores(
    scores: np.ndarray,
    target: np.ndarray,
    labels: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> TaggingScores:
    """Average precision of each class and their mean, the usual measure of AudioSet and FSD50K.

    Args:
        scores: (N, C), higher is likelier.
        target: (N, C), 1 where the clip has the class.
        labels: C names.
        confidence: coverage of the bootstrap interval, which resamples clips.
    Returns:
        TaggingScores.
    Raises:
        ValueError: shapes that do not fit, scores that are not finite, or no class that occurs.
    """
    scores, target = np.asarray(scores), np.asarray(target).astype(bool)
    if scores.ndim != 2 or scores.shape != target.shape or scores.shape[1] != len(labels):
        raise ValueError(f"scores {scores.shape} and target {target.shape} must be (clips, {len(labels)} labels)")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores of clip {np.flatnonzero(~np.isfinite(scores).all(1))[0]} are not finite")
    if not target.any():
        raise ValueError("not one clip has a class; there is nothing to measure")

    def mean(rows: np.ndarray) -> float:
        present = np.flatnonzero(target[rows].any(0))
        values = [average_precision(scores[rows, c], target[rows, c]) for c in present]
        return float(np.mean(values)) if values else np.nan

    low, high = interval(mean, len(scores), confidence, resamples, seed)
    present = np.flatnonzero(target.any(0))
    return TaggingScores(
        mean_average_precision=mean(np.arange(len(scores))),
        low=low,
        high=high,
        chance=float(target[:, present].mean()),
        clips=len(scores),
        classes=len(present),
        per_class={labels[c]: average_precision(scores[:, c], target[:, c]) for c in present},
    )


def micro_f1(scores: np.ndarray, target: np.ndarray) -> float:
    """F1 of choosing the highest-scoring class of each clip, counted over all clips and classes together.

    Args:
        scores: (N, C); a clip whose highest score is shared by a class that it does not have is wrong.
        target: (N, C), 1 where the clip has the class.
    Not stated by papers that report F1 of zero-shot tagging; the first answer is taken because it needs no threshold.
    """
    target = np.asarray(target).astype(bool)
    best = scores == scores.max(1, keepdims=True)
    hits = (best.any(1) & ~(best & ~target).any(1)).sum()
    return float(2 * hits / (len(scores) + target.sum()))
