"""How sure a score is."""

from collections.abc import Callable

import numpy as np


def interval(
    statistic: Callable[[np.ndarray], float],
    count: int,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap: the statistic of rows drawn with replacement, many times.

    Args:
        statistic: of row numbers (count,), which may repeat; NaN where these rows have none.
        count: of rows.
        confidence: coverage.
        resamples: how often rows are drawn.
    Returns:
        low, high.
    """
    draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
    tail = (1.0 - confidence) / 2
    low, high = np.nanquantile([statistic(rows) for rows in draws], [tail, 1.0 - tail])
    return float(low), float(high)
