"""Fractions are nested, weights are kept, and the order is a function of seed and epoch alone."""

import numpy as np
import pytest
from datasets import Dataset

from hf_slap.data.batching import plan_epoch, run_batches
from hf_slap.data.sampling import clip_times, epoch_order, epoch_orders, take_fraction

SIZES = {"rain": 601, "birds": 211, "bells": 7}
SECONDS = {"rain": 1.0, "birds": 10.0, "bells": 4.0}


@pytest.fixture(scope="module")
def corpus() -> Dataset:
    sources = [source for source, size in SIZES.items() for _ in range(size)]
    labels = [[("soft", "hard", "both")[(row % 7 == 0) + (row % 49 == 0)]] for row in range(len(sources))]
    return Dataset.from_dict(
        {
            "id": [f"{source}/{row}" for row, source in enumerate(sources)],
            "source": sources,
            "duration": [SECONDS[source] for source in sources],
            "labels": [["soft", "hard"] if names == ["both"] else names for names in labels],
        }
    )


def heard(times: np.ndarray, epochs: int, seed: int = 5) -> np.ndarray:
    return sum(np.bincount(epoch_order(times, seed, epoch), minlength=len(times)) for epoch in range(epochs))


def by_source(corpus: Dataset, counts: np.ndarray) -> dict[str, float]:
    return {source: float(counts[np.array(corpus["source"]) == source].sum()) for source in SIZES}


def test_fractions_are_nested_keep_every_source_and_do_not_depend_on_order_or_company(corpus):
    parts = [set(take_fraction(corpus, fraction)["id"]) for fraction in (0.01, 0.03, 0.1, 0.3, 1.0)]
    assert [len(part) for part in parts] == [7 + 3 + 1, 19 + 7 + 1, 61 + 22 + 1, 181 + 64 + 3, 819]  # ceil per source
    assert all(small < large for small, large in zip(parts, parts[1:], strict=False))
    turned = corpus.select(range(len(corpus) - 1, -1, -1))
    assert set(take_fraction(turned, 0.1)["id"]) == parts[2]
    alone = corpus.filter(lambda source: source == "birds", input_columns="source")
    assert set(take_fraction(alone, 0.1)["id"]) == {name for name in parts[2] if name.startswith("birds")}
    rows = [int(name.split("/")[1]) for name in parts[2] if name.startswith("rain")]
    assert np.mean(rows) == pytest.approx(300, abs=75)  # from everywhere: the mean of 61 of 601 has a deviation of 21
    with pytest.raises(ValueError, match="must lie above 0"):
        take_fraction(corpus, 0.0)


def test_the_same_seed_and_epoch_give_the_same_order_and_others_another(corpus):
    times = clip_times(corpus, "hours")
    first = epoch_order(times, 5, 3)
    np.testing.assert_array_equal(first, epoch_order(times.copy(), 5, 3))
    for other in (epoch_order(times, 5, 4), epoch_order(times, 6, 3)):
        assert len(other) != len(first) or (other != first).any()


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ("hours", {"rain": 601 / 2739, "birds": 2110 / 2739, "bells": 28 / 2739}),
        ({"rain": 1, "birds": 1, "bells": 2}, {"rain": 0.25, "birds": 0.25, "bells": 0.5}),
        ({"rain": 0, "birds": 3, "bells": 1}, {"rain": 0.0, "birds": 0.75, "bells": 0.25}),
    ],
)
def test_sources_are_heard_in_their_shares_in_every_epoch(corpus, weights, shares):
    times = clip_times(corpus, weights)
    assert times.sum() == pytest.approx(len(corpus))
    for epoch in range(3):
        order = epoch_order(times, 5, epoch)
        assert len(order) == pytest.approx(len(corpus), abs=3)
        counts = by_source(corpus, np.bincount(order, minlength=len(corpus)))
        assert counts == {source: pytest.approx(share * len(corpus), abs=1.01) for source, share in shares.items()}


def test_no_clip_is_forgotten_and_none_is_favoured(corpus):
    times = clip_times(corpus, "hours", balance_labels=1)
    for epochs in (1, 4, 9):
        assert np.abs(heard(times, epochs) - epochs * times).max() < 1
    once = np.ones(29)
    assert sorted(epoch_order(once, 0, 0)) == list(range(29))


def test_repeats_of_a_clip_are_far_apart(corpus):
    times = clip_times(corpus, {"rain": 1, "birds": 1, "bells": 2})
    order = epoch_order(times, 5, 0)
    places = np.flatnonzero(order == len(corpus) - 1)
    assert len(places) == pytest.approx(819 * 0.5 / 7, abs=1)
    assert np.diff(places).min() >= 0.5 * len(order) / len(places)


def test_labels_are_balanced_inside_each_source(corpus):
    times = clip_times(corpus, balance_labels=1)
    for source, size in SIZES.items():
        rows = [row for row, name in enumerate(corpus["source"]) if name == source]
        weight = {"soft": 0.0, "hard": 0.0}
        for row in rows:
            labels = corpus[row]["labels"]
            for label in labels:
                weight[label] += times[row] / len(labels) if len(labels) > 1 else times[row]
        assert times[rows].sum() == pytest.approx(size)  # what a source has in all stays
        if source == "rain":  # by hand: 515 clips of soft alone, 73 of hard alone, 13 of both
            soft, hard = 515 + 13, 73 + 13
            expected = 601 * (515 / soft) / (515 / soft + 73 / hard + 13 * (1 / soft + 1 / hard))
            alone = [row for row in rows if corpus[row]["labels"] == ["soft"]]
            assert times[alone].sum() == pytest.approx(expected)
        if source == "bells":
            assert weight["soft"] == pytest.approx(weight["hard"])


@pytest.mark.parametrize("exponent", [0.25, 0.5])
def test_labels_are_balanced_in_part(corpus, exponent):
    times = clip_times(corpus, balance_labels=exponent)
    rain = [row for row, name in enumerate(corpus["source"]) if name == "rain"]
    of = {tuple(corpus[row]["labels"]): times[row] for row in rain}
    soft, hard = 515 + 13, 73 + 13  # clips, as above
    assert of["hard",] / of["soft",] == pytest.approx((soft / hard) ** exponent)
    assert max(value for labels, value in of.items() if len(labels) == 2) == pytest.approx(of["hard",] + of["soft",])
    assert times[rain].sum() == pytest.approx(601)


def test_plain_shares_change_nothing_about_the_order(corpus):
    assert clip_times(corpus) is None and epoch_orders(None, 5) is None
    assert clip_times(corpus, "clips", balance_labels=1) is not None


@pytest.mark.parametrize("world", [1, 3])
def test_ranks_together_take_the_order_and_a_resumed_run_goes_on_in_it(corpus, world):
    orders = epoch_orders(clip_times(corpus, "hours"), 5)
    seconds = np.array(corpus["duration"])
    plan = [batch for epoch in (0, 1) for batch in plan_epoch(seconds, 200.0, 5, epoch, order=orders(epoch))]
    runs = [run_batches(seconds, 200.0, 5, 4, len(plan), rank, world, order=orders) for rank in range(world)]
    for batch, shares in zip(plan[4:], zip(*runs, strict=True), strict=True):
        refs = sorted((ref for part in shares for ref in part), key=lambda ref: ref.position)
        assert [ref.index for ref in refs] == batch
    assert plan[0][:5] == orders(0)[:5].tolist()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"rain": 1, "birds": 1}, "name each of them"),
        ({"rain": 1, "birds": 1, "bells": 1, "wind": 1}, "name each of them"),
        ({"rain": 1, "birds": -1, "bells": 1}, "must not be negative"),
        ({"rain": 0, "birds": 0, "bells": 0}, "not all 0"),
        ("loudness", "accepted are"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(corpus, weights, message):
    with pytest.raises(ValueError, match=message):
        clip_times(corpus, weights)


def test_balancing_needs_labels(corpus):
    with pytest.raises(ValueError, match="must lie between 0, off, and 1"):
        clip_times(corpus, balance_labels=1.5)
    with pytest.raises(ValueError, match="needs a column 'labels' or 'label'"):
        clip_times(corpus.remove_columns("labels"), balance_labels=1)
