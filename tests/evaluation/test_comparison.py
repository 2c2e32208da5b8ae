"""Means over seeds and verdicts, against numbers worked by hand."""

import math

import numpy as np
import pytest

from hf_slap.evaluation.comparison import difference, mean_interval


def test_three_seeds_have_the_t_interval_of_two_degrees_of_freedom():
    """Mean 2, deviation 1, so 4.3027 / sqrt(3) = 2.4841 to either side."""
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-4)


def test_two_seeds_are_hardly_worth_an_interval():
    """Deviation sqrt(2) x 0.1, t of one degree of freedom 12.706: 12.706 x 0.1 to either side."""
    assert mean_interval([0.4, 0.6]) == pytest.approx((0.5, 0.5 - 1.2706, 0.5 + 1.2706), abs=1e-4)


def test_one_seed_has_a_mean_and_no_interval():
    mean, low, high = mean_interval([0.3])
    assert mean == 0.3 and math.isnan(low) and math.isnan(high)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


MOSTLY_BETTER = np.repeat([1.0, 0.0], [30, 70])  # 30 of 100 clips gained: 0.3, and about 0.21 to 0.39 over clips
EITHER_WAY = np.repeat([1.0, -1.0], [51, 49])


@pytest.mark.parametrize(
    ("per_seed", "per_clip", "verdict"),
    [
        ([0.29, 0.30, 0.31], MOSTLY_BETTER, "holds"),
        ([-0.29, -0.30, -0.31], -MOSTLY_BETTER, "the opposite"),
        ([0.29, 0.30, 0.31], EITHER_WAY, "not told apart"),  # other clips would say otherwise
        ([0.1, 0.8, 0.0], MOSTLY_BETTER, "not told apart"),  # other seeds would
        ([0.29, 0.30, 0.31], None, "holds"),
        ([0.3], MOSTLY_BETTER, "not told apart"),  # one seed proves nothing
    ],
)
def test_a_claim_holds_where_seeds_and_clips_agree(per_seed, per_clip, verdict):
    assert difference(per_seed, per_clip).verdict == verdict


def test_the_interval_over_clips_is_that_of_a_share():
    low, high = difference([0.3, 0.3], MOSTLY_BETTER).over_clips
    assert (low, high) == pytest.approx((0.21, 0.39), abs=0.015)  # 0.3 +- 1.96 sqrt(0.3 x 0.7 / 100)
