"""Whether one way of training beats another: means over seeds, paired differences, and a verdict."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .bootstrap import interval


class Difference(NamedTuple):
    """Result of `difference`.

    Args:
        mean: over seeds.
        over_seeds: 95 % interval of what another seed would give on these clips; None with one seed.
        over_clips: 95 % interval of what other clips would give with these seeds; None where a measure is no mean over
            clips.
        verdict: "holds", "the opposite" or "not told apart".
    """

    mean: float
    over_seeds: tuple[float, float] | None
    over_clips: tuple[float, float] | None
    verdict: str


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of a few runs and its Student t interval.

    Args:
        values: one per seed.
        confidence: coverage.
    Returns:
        mean, low, high; with one value low and high are NaN.
    Raises:
        ValueError: no values.
        ImportError: scipy is not installed.
    """
    if not len(values):
        raise ValueError("no values; a mean needs at least one run")
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, float("nan"), float("nan")
    try:
        from scipy.stats import t
    except ImportError as error:
        raise ImportError('intervals over seeds need scipy: `pip install "hf_slap[eval]"`') from error
    reach = t.ppf((1 + confidence) / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, float(mean - reach), float(mean + reach)


def difference(per_seed: Sequence[float], per_clip: np.ndarray | None = None, confidence: float = 0.95) -> Difference:
    """Whether a paired difference is above 0, for other seeds and for other clips.

    Args:
        per_seed: the difference of each seed: same seed, same clips, same order of clips on both sides.
        per_clip: (clips,), the difference of each clip, averaged over seeds; resampled by bootstrap.
        confidence: coverage of each interval.
    Returns:
        "holds" if all intervals that there are lie above 0, "the opposite" if all lie below, else, and with one seed,
        "not told apart".
    """
    mean, *seeds = mean_interval(per_seed, confidence)
    clips = None
    if per_clip is not None:
        clips = interval(lambda rows: per_clip[rows].mean(), len(per_clip), confidence)
    over_seeds = tuple(seeds) if len(per_seed) > 1 else None
    known = [bounds for bounds in (over_seeds, clips) if bounds is not None]
    verdict = "not told apart"
    if over_seeds is not None and all(low > 0 for low, _ in known):
        verdict = "holds"
    elif over_seeds is not None and all(high < 0 for _, high in known):
        verdict = "the opposite"
    return Difference(mean, over_seeds, clips, verdict)
