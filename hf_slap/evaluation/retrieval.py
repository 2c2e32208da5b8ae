"""Retrieval between clips and captions, both ways, by the conventions of the field.

- **text to audio**: every caption is a query, its clip is right.
- **audio to text**: every clip is a query, each of its captions is right; recall counts the best of them.
- recall@k: share of queries with a right answer among the first k.
- mAP@10: mean over queries of (sum over right answers within the first 10 of i / rank_i, i counting them) /
  right answers, at most 10. With one right answer that is 1 / rank.
- **Ties are broken against the model**: a wrong answer with the score of the right one stands before it. A
  model that gives the same score to everything finds nothing.
"""

from collections.abc import Sequence

import numpy as np

from .bootstrap import interval

_ROWS_AT_ONCE = 1024


def retrieval_scores(
    audio_embeds: np.ndarray,
    text_embeds: np.ndarray,
    relevant: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict]:
    """Recall@k and mAP@10 in both directions.

    Args:
        audio_embeds: (N, D), unit norm.
        text_embeds: (M, D), unit norm.
        relevant: (N, M) bool, whether text j describes clip i (`relevance` makes it from captions).
        ks: of recall@k.
    Returns:
        {"text_to_audio": {"recall@1": ..., "map@10": ..., "queries": ..., "recall@1 interval": (low, high)},
        "audio_to_text": {...}}, shares from 0 to 1; a bootstrap interval over queries for each of them.
    Raises:
        ValueError: shapes that do not fit, values that are not finite, a query without a right answer.
    """
    audio_embeds, text_embeds, relevant = map(np.asarray, (audio_embeds, text_embeds, relevant))
    if relevant.shape != (len(audio_embeds), len(text_embeds)):
        raise ValueError(
            f"relevant {relevant.shape} must have one row per clip ({len(audio_embeds)}) "
            f"and one column per text ({len(text_embeds)})"
        )
    for name, values in (("audio_embeds", audio_embeds), ("text_embeds", text_embeds)):
        if not np.isfinite(values).all():
            row = np.flatnonzero(~np.isfinite(values).all(1))[0]
            raise ValueError(f"{name}: row {row} holds values that are not finite")
    return {
        "text_to_audio": _one_way(text_embeds, audio_embeds, relevant.T, ks),
        "audio_to_text": _one_way(audio_embeds, text_embeds, relevant, ks),
    }


def relevance(captions: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """The different captions of a set, and which clip each belongs to.

    A text that describes several clips stands once and is right for each of them, so corpora with few,
    repeated captions are scored fairly. Where all captions differ this is the usual protocol.

    Args:
        captions: of each of N clips.
    Returns:
        M texts in order of appearance; (N, M) bool.
    """
    texts = list(dict.fromkeys(text for clip in captions for text in clip))
    place = {text: j for j, text in enumerate(texts)}
    relevant = np.zeros((len(captions), len(texts)), dtype=bool)
    for i, clip in enumerate(captions):
        relevant[i, [place[text] for text in clip]] = True
    return texts, relevant


def chance_recall(relevant: np.ndarray, k: int) -> float:
    """Recall@k of a random order: the mean chance that one of a query's right answers is among the first k.

    Args:
        relevant: (queries, answers) bool.
    """
    answers = relevant.shape[1]
    right = relevant.sum(1)
    missed = np.ones(len(relevant))
    for place in range(min(k, answers)):
        missed *= np.maximum(answers - place - right, 0) / (answers - place)
    return float(1 - missed.mean())


def query_values(
    queries: np.ndarray, answers: np.ndarray, relevant: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, np.ndarray]:
    """What each query contributes to `retrieval_scores`: {"recall@k": (Q,) bool, "map@10": (Q,)}.

    Args:
        queries, answers: (Q, D), (A, D), unit norm.
        relevant: (Q, A) bool.
    Raises:
        ValueError: a query without a right answer.
    """
    best, precision = [], []
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        scores = queries[start : start + _ROWS_AT_ONCE] @ answers.T  # (rows, answers)
        for row, right in zip(scores, relevant[start : start + _ROWS_AT_ONCE], strict=True):
            if not right.any():
                raise ValueError(f"query {len(best)} has no right answer among the candidates")
            ranks = _ranks(row, right)
            best.append(ranks[0])
            found = ranks[ranks <= 10]
            precision.append((np.arange(1, len(found) + 1) / found).sum() / min(len(ranks), 10))
    best = np.array(best)
    return {**{f"recall@{k}": best <= k for k in ks}, "map@10": np.array(precision)}


def _one_way(queries: np.ndarray, answers: np.ndarray, relevant: np.ndarray, ks: Sequence[int]) -> dict:
    values = query_values(queries, answers, relevant, ks)
    scores = {name: float(value.mean()) for name, value in values.items()}
    between = {f"{name} interval": _mean_interval(value) for name, value in values.items()}
    return {**scores, "queries": len(queries), **between}


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    return interval(lambda rows: values[rows].mean(), len(values), resamples=1000)


def _ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Places of the right answers, from 1, ascending; wrong answers of equal score stand before them."""
    good = np.sort(scores[right])[::-1]
    bad = np.sort(scores[~right])
    before = len(bad) - np.searchsorted(bad, good, side="left")  # wrong answers at least as high
    return before + np.arange(1, len(good) + 1)
