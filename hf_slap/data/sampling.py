"""How often and when a clip is heard: shares of sources, balance of labels, nested fractions, the order of an epoch.

All are pure functions of (seed, epoch) and of the corpus; ranks and workers take their parts of the order afterwards.
Which of its captions a clip comes with is drawn from (seed, epoch, position) by `PretrainDataset`, one per clip and
epoch, each with equal probability; evaluation takes all of them.
"""

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .records import stable_hash

SOURCE_WEIGHTS = ("clips", "hours")
_ROWS = 10_000


def take_fraction(corpus: Dataset, fraction: float) -> Dataset:
    """A part of a corpus for scaling studies: of every source, the clips whose hashed ids come first.

    Parts are nested (all of 1 % is in 3 %, and so on), and what a source contributes does not depend on the order of
    rows or on the other sources.

    Args:
        corpus: from `load_corpus`.
        fraction: above 0 and up to 1; of each source ceil(fraction x clips) are kept.
    Returns:
        The corpus with fewer rows, in their order.
    Raises:
        ValueError: a fraction outside its range.
    Paper: CaptionStew trains on nested parts of its corpus; how they are drawn is not stated.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"the fraction of the data is {fraction}; it must lie above 0 and be at most 1")
    if fraction == 1:
        return corpus
    _, source_of = _codes(corpus, "source")
    names = (name for table in _tables(corpus, "id") for name in table["id"].to_pylist())
    hashes = np.fromiter(map(stable_hash, names), np.int64)
    order = np.lexsort((hashes, source_of))
    sizes = np.bincount(source_of)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.repeat(starts, sizes)  # of a clip among those of its source
    wanted = np.array([math.ceil(fraction * size - 1e-9) for size in sizes])
    return corpus.select(np.flatnonzero(place < wanted[source_of]))


def clip_times(
    corpus: Dataset, source_weights: str | Mapping[str, float] = "clips", balance_labels: float = 0.0
) -> np.ndarray | None:
    """How many times each clip is to be heard in an epoch, on average. An epoch stays as many clips as the corpus has.

    Args:
        corpus: from `load_corpus`.
        source_weights: share of the clips heard that come from each source: "clips", as many as it has; "hours", as its
            hours; or {source: weight}, which names every source, 0 leaves one out.
        balance_labels: exponent p from 0, off, to 1. Inside a source, a clip counts as the sum of
            1 / (clips of the source with that label) ** p over its labels: with 1 every label is heard equally often
            where clips have one, with 0.5 as the root of its clips, so that a label of a single clip is not heard as
            often as one of a hundred. Clips without a label are one more label.
    Returns:
        (clips,) float64, mean 1; None where every clip is to be heard once.
    Raises:
        ValueError: a rule that does not exist, weights that miss a source, name an unknown one, are negative or all 0;
            an exponent outside its range; no labels to balance.
    Paper: CaptionStew's framework mixes sources by hours. Balancing is not stated; 1 / count is usual for AudioSet.
    """
    if not 0 <= balance_labels <= 1:
        raise ValueError(f"balance_labels is {balance_labels}; it must lie between 0, off, and 1, all labels alike")
    if source_weights == "clips" and not balance_labels:
        return None
    sources, source_of = _codes(corpus, "source")
    shares = _shares(corpus, sources, source_of, source_weights)
    inside = _label_weights(corpus, source_of, balance_labels) if balance_labels else np.ones(len(corpus))
    total = np.bincount(source_of, inside)
    return len(corpus) * shares[source_of] * inside / total[source_of]


def epoch_order(times: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The rows of one epoch, in order; a row may occur several times, then evenly spread, or not at all.

    A clip that is to be heard c times per epoch is heard floor(c) or ceil(c) times in each, and floor(E c) or ceil(E c)
    times in any first E epochs: nothing is left to luck, and no clip is forgotten.

    Args:
        times: (clips,), from `clip_times`.
        seed: of the run.
        epoch: from 0.
    Returns:
        Rows, int32 (int64 beyond 2^31 clips); about as many as the corpus has.
    """
    kind = np.int32 if len(times) < 2**31 else np.int64
    phase = _phases(times, seed)
    counts = np.floor((epoch + 1) * times + phase) - np.floor(epoch * times + phase)
    rows = np.repeat(np.arange(len(times), dtype=kind), counts.astype(np.int64))
    first = np.cumsum(counts) - counts
    copy = np.arange(len(rows)) - np.repeat(first, counts.astype(np.int64))  # 0, 1, ... of the same row
    # Copy j of c lies in the j-th of c equal parts of the epoch, all of them at the same place of their part.
    place = np.random.default_rng((seed, epoch, 2)).random(len(times))
    return rows[np.argsort((copy + place[rows]) / counts[rows], kind="stable")]


def epoch_orders(times: np.ndarray | None, seed: int) -> Callable[[int], np.ndarray] | None:
    """`epoch_order` as a function of the epoch, for `run_batches`; None where every clip is heard once."""
    return None if times is None else functools.partial(epoch_order, times, seed)


def _phases(times: np.ndarray, seed: int) -> np.ndarray:
    """(clips,) in [0, 1): where in its rhythm a clip begins. Those with equal times are evenly spaced, so that an epoch
    has almost exactly the sum of all times."""
    shuffled = np.random.default_rng((seed, 0, 1)).permutation(len(times))
    _, group, sizes = np.unique(times, return_inverse=True, return_counts=True)
    order = np.lexsort((shuffled, group))
    starts = np.cumsum(sizes) - sizes
    phase = np.empty(len(times))
    phase[order] = (np.arange(len(times)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
    return phase


def _shares(
    corpus: Dataset, sources: list[str], source_of: np.ndarray, weights: str | Mapping[str, float]
) -> np.ndarray:
    if isinstance(weights, Mapping):
        if set(weights) != set(sources):
            raise ValueError(
                f"source_weights names {sorted(weights)}, the corpus has {sorted(sources)}; name each of them"
            )
        shares = np.array([float(weights[name]) for name in sources])
    elif weights == "hours":
        shares = np.bincount(source_of, np.array(corpus["duration"], dtype=np.float64))
    elif weights == "clips":
        shares = np.bincount(source_of).astype(np.float64)
    else:
        raise ValueError(f"source_weights is {weights!r}; accepted are {SOURCE_WEIGHTS} and {{source: weight}}")
    if not np.isfinite(shares).all() or (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(f"source_weights is {weights}; weights must not be negative, and not all 0")
    return shares / shares.sum()


def _label_weights(corpus: Dataset, source_of: np.ndarray, exponent: float) -> np.ndarray:
    column = next((name for name in ("labels", "label") if name in corpus.column_names), None)
    if column is None:
        raise ValueError(f"balance_labels needs a column 'labels' or 'label'; the corpus has {corpus.column_names}")
    codes, owners, known, start = [], [], {}, 0
    for table in _tables(corpus, column):
        for row, value in enumerate(table[column].to_pylist(), start):
            names = [value] if isinstance(value, str) else value
            for name in set(names or [""]):
                codes.append(known.setdefault((int(source_of[row]), name), len(known)))
                owners.append(row)
        start += len(table)
    codes, owners = np.array(codes), np.array(owners)
    return np.bincount(owners, np.bincount(codes)[codes] ** -float(exponent))


def _codes(corpus: Dataset, column: str) -> tuple[list[str], np.ndarray]:
    """The values of a column of strings, and (clips,) which of them each clip has."""
    whole = pa.chunked_array([chunk for table in _tables(corpus, column) for chunk in table[column].chunks])
    encoded = pc.dictionary_encode(whole.cast(pa.large_string()).combine_chunks(), null_encoding="encode")
    return [name or "" for name in encoded.dictionary.to_pylist()], encoded.indices.to_numpy()


def _tables(corpus: Dataset, column: str):
    return corpus.select_columns([column]).with_format("arrow").iter(_ROWS)
