"""When events are heard: scores over time against intervals."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import interval
from .tagging import average_precision, tagging_scores

SEGMENT_SECONDS = 1.0


def frame_targets(
    events: Sequence[Mapping], labels: Sequence[str], frames: int, seconds_per_frame: float
) -> np.ndarray:
    """(T, C) bool: whether the middle of a frame lies in an event of a class.

    Args:
        events: {"label", "start", "end"} in seconds; those of other labels are left out.
        labels: C names.
        frames: T.
        seconds_per_frame: from one frame to the next; the first begins at 0.
    """
    middle = (np.arange(frames) + 0.5) * seconds_per_frame
    place = {label: column for column, label in enumerate(labels)}
    target = np.zeros((frames, len(labels)), dtype=bool)
    for event in events:
        if event["label"] in place:
            target[:, place[event["label"]]] |= (middle >= event["start"]) & (middle < event["end"])
    return target


class EventScores(NamedTuple):
    """Result of `event_scores`.

    Args:
        segment_map: mean average precision of classes over segments.
        segment_f1: micro F1 over segments and classes, at the threshold.
        low, high: bootstrap interval of segment_map, which resamples clips.
        chance: segment_map of random scores.
        segments, clips, classes: how many.
        per_class: {label: average precision}.
    """

    segment_map: float
    segment_f1: float
    low: float
    high: float
    chance: float
    segments: int
    clips: int
    classes: int
    per_class: dict[str, float]


def event_scores(
    scores: Sequence[np.ndarray],
    events: Sequence[Sequence[Mapping]],
    labels: Sequence[str],
    seconds_per_frame: float,
    threshold: float = 0.0,
    resamples: int = 200,
) -> EventScores:
    """Sound event detection by segments of one second: a class is active in a segment that an event of it touches.

    Args:
        scores: (T, C) of each clip, higher is likelier; a segment has the highest of its frames.
        events: of each clip, {"label", "start", "end"} in seconds.
        labels: C names.
        seconds_per_frame: from one frame to the next.
        threshold: a class is said to be active from here on; 0 is even odds where scores are logits.
        resamples: of the interval.
    Source: segment-based measures of sed_eval (Mesaros et al. 2016), segments of 1 s; a frame lies
        where its middle is.
    """
    values, targets, clip_of_segment = [], [], []
    for clip, (score, its) in enumerate(zip(scores, events, strict=True)):
        segment = ((np.arange(len(score)) + 0.5) * seconds_per_frame // SEGMENT_SECONDS).astype(int)
        count = int(segment[-1]) + 1
        value = np.full((count, len(labels)), -np.inf)
        np.maximum.at(value, segment, score)
        start = np.arange(count) * SEGMENT_SECONDS
        target = np.zeros((count, len(labels)), dtype=bool)
        for event in its:
            touched = (start < event["end"]) & (start + SEGMENT_SECONDS > event["start"])
            target[touched, list(labels).index(event["label"])] = True
        values.append(value)
        targets.append(target)
        clip_of_segment += [clip] * count
    stacked, truth, owner = np.concatenate(values), np.concatenate(targets), np.array(clip_of_segment)
    result = tagging_scores(stacked, truth, labels, resamples=1)
    rows_of = [np.flatnonzero(owner == clip) for clip in range(len(values))]

    def resampled(clips: np.ndarray) -> float:
        rows = np.concatenate([rows_of[clip] for clip in clips])
        present = np.flatnonzero(truth[rows].any(0))
        values = [average_precision(stacked[rows, c], truth[rows, c]) for c in present]
        return float(np.mean(values)) if values else np.nan

    low, high = interval(resampled, len(values), resamples=resamples)
    said = stacked >= threshold
    f1 = 2 * (said & truth).sum() / max(said.sum() + truth.sum(), 1)
    return EventScores(
        segment_map=result.mean_average_precision,
        segment_f1=float(f1),
        low=low,
        high=high,
        chance=result.chance,
        segments=len(truth),
        clips=len(values),
        classes=result.classes,
        per_class=result.per_class,
    )


class LocalisationScores(NamedTuple):
    """Result of `localisation_scores`.

    Args:
        auroc: mean over queries of the chance that a moment inside scores above one outside; ties count half.
        low, high: bootstrap interval of it over queries.
        ap: mean average precision of the moments of a query.
        ap_chance: mean share of moments inside, which random scores reach.
        pointing: share of queries whose highest-scoring moment lies inside.
        queries: how many.
    """

    auroc: float
    low: float
    high: float
    ap: float
    ap_chance: float
    pointing: float
    queries: int


def localisation_scores(scores: Sequence[np.ndarray], inside: Sequence[np.ndarray]) -> LocalisationScores:
    """How well texts are found in time. A query is a text and a clip in which it is heard somewhere, not everywhere.

    Args:
        scores: (T,) of each query, similarity of its text with each moment.
        inside: (T,) bool of each query, whether the text is heard then.
    Raises:
        ValueError: no query, or one that is heard never or always.
    """
    if not scores:
        raise ValueError("not one text to find; expected is at least one query")
    auroc, ap, pointing, share = [], [], [], []
    for query, (score, truth) in enumerate(zip(scores, inside, strict=True)):
        score, truth = np.asarray(score, float), np.asarray(truth, bool)
        if truth.all() or not truth.any():
            raise ValueError(f"query {query} is heard {'always' if truth.all() else 'never'}; there is nothing to find")
        right, wrong = np.sort(score[truth]), np.sort(score[~truth])
        below = np.searchsorted(wrong, right, "left") + np.searchsorted(wrong, right, "right")
        auroc.append(below.sum() / (2 * len(right) * len(wrong)))
        ap.append(average_precision(score, truth))
        pointing.append(score[~truth].max() < score[truth].max())
        share.append(truth.mean())
    values = np.array(auroc)
    low, high = interval(lambda rows: values[rows].mean(), len(values))
    means = (float(np.mean(these)) for these in (ap, share, pointing))
    return LocalisationScores(float(values.mean()), low, high, *means, len(values))
