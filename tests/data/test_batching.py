import numpy as np
import pytest

from hf_slap.data import padding_share, rank_batches, run_batches, share
from hf_slap.data import plan_epoch as plan_lazily


def plan_epoch(*args, **keywords):
    return list(plan_lazily(*args, **keywords))


DURATIONS = np.random.default_rng(5).uniform(0.2, 11.0, size=211).tolist()


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    plan = plan_epoch(DURATIONS, 60.0, seed=3, epoch=1)
    np.random.seed(1)
    assert plan_epoch(DURATIONS, 60.0, seed=3, epoch=1) == plan
    assert plan_epoch(DURATIONS, 60.0, seed=3, epoch=2) != plan
    assert plan_epoch(DURATIONS, 60.0, seed=4, epoch=1) != plan


def test_every_clip_comes_once_but_for_the_end_that_fills_no_batch():
    plan = plan_epoch(DURATIONS, 60.0, seed=3, epoch=0)
    used = [index for batch in plan for index in batch]
    left = set(range(len(DURATIONS))) - set(used)
    assert len(used) == len(set(used))
    assert sum(DURATIONS[index] for index in left) < 60.0


def test_another_epoch_leaves_out_other_clips():
    left = [
        set(range(len(DURATIONS))) - {index for batch in plan_epoch(DURATIONS, 60.0, 3, epoch) for index in batch}
        for epoch in range(3)
    ]
    assert left[0] != left[1] != left[2]


def test_batches_are_as_full_as_the_next_clip_allows():
    for batch in plan_epoch(DURATIONS, 60.0, seed=3, epoch=0):
        assert 60.0 - 11.0 < sum(DURATIONS[index] for index in batch) <= 60.0


@pytest.mark.parametrize(("clips", "sizes"), [(7, [3, 3]), (6, [3, 3]), (2, [2]), (4, [3])])
def test_clips_of_ten_seconds_come_three_to_a_batch_of_thirty(clips, sizes):
    assert [len(batch) for batch in plan_epoch([10.0] * clips, 30.0, 0, 0)] == sizes


def test_ten_tenths_fill_a_second_in_spite_of_rounding():
    assert [len(batch) for batch in plan_epoch([0.1] * 20, 1.0, 0, 0)] == [10, 10]


def test_a_long_clip_counts_as_what_it_is_cropped_to():
    assert [len(batch) for batch in plan_epoch([500.0] * 6, 90.0, 0, 0, max_seconds=30.0)] == [3, 3]


def test_limits_by_number_of_clips():
    assert [len(batch) for batch in plan_epoch([1.0] * 11, 100.0, 0, 0, max_clips=5)] == [5, 5]
    assert [len(batch) for batch in plan_epoch([10.0] * 6, 10.0, 0, 0)] == [2, 2, 2]
    assert [len(batch) for batch in plan_epoch([10.0] * 6, 10.0, 0, 0, min_clips=3)] == [3, 3]


@pytest.mark.parametrize(
    ("durations", "settings", "message"),
    [
        ([1.0], {}, "corpus has 1 clips; a batch needs at least 2"),
        ([1.0, 0.0, 2.0], {}, "clip 1 has a duration of 0.0 s"),
        ([1.0, float("nan")], {}, "clip 1 has a duration of nan s"),
        ([1.0, 1.0], {"batch_seconds": 0.0}, "must be positive"),
        ([1.0, 1.0], {"min_clips": 1}, "contrastive batch needs at least 2"),
        ([1.0, 1.0], {"max_clips": 2, "min_clips": 3}, "max_clips 2 is less than min_clips 3"),
    ],
)
def test_what_cannot_be_planned_is_refused(durations, settings, message):
    with pytest.raises(ValueError, match=message):
        plan_epoch(durations, **{"batch_seconds": 10.0, "seed": 0, "epoch": 0, **settings})


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_ranks_share_a_batch_without_rest_or_overlap_and_about_evenly(world):
    for batch in plan_epoch(DURATIONS, 60.0, seed=3, epoch=0):
        parts = [share(batch, DURATIONS, rank, world) for rank in range(world)]
        assert sorted(sum(parts, [])) == sorted(batch)
        assert all(part == [index for index in batch if index in part] for part in parts)  # the batch's order
        seconds = [sum(DURATIONS[index] for index in part) for part in parts]
        assert max(seconds) - min(seconds) <= max(DURATIONS[index] for index in batch)


def test_five_four_three_and_two_seconds_make_seven_for_each_of_two():
    durations = [2.0, 3.0, 5.0, 4.0]
    assert [share([0, 1, 2, 3], durations, rank, 2) for rank in (0, 1)] == [[0, 2], [1, 3]]


def test_a_clip_that_is_cropped_weighs_what_is_left_of_it():
    durations = [600.0, 20.0, 20.0, 20.0]
    assert [share([0, 1, 2, 3], durations, rank, 2, max_seconds=30.0) for rank in (0, 1)] == [[0, 3], [1, 2]]


def test_as_many_ranks_as_there_are_clips_have_one():
    assert all(share([7, 5, 3], {3: 1.0, 5: 30.0, 7: 9.0}, rank, 3) for rank in range(3))
    assert [share([0, 1], [1.0, 2.0], rank, 4) for rank in range(4)] == [[1], [0], [], []]
    with pytest.raises(ValueError, match="rank 2 of 2"):
        share([0, 1], [1.0, 1.0], 2, 2)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_a_clip_has_the_same_position_whatever_the_number_of_ranks(world):
    plan = plan_epoch(DURATIONS, 60.0, seed=3, epoch=2)
    alone = list(rank_batches(plan, DURATIONS, epoch=2))
    together = [list(rank_batches(plan, DURATIONS, 2, rank, world)) for rank in range(world)]
    assert [ref.position for batch in alone for ref in batch] == list(range(sum(map(len, plan))))
    for step, batch in enumerate(alone):
        assert sorted(sum((parts[step] for parts in together), [])) == batch


@pytest.mark.parametrize(("rank", "world", "accumulation"), [(0, 1, 3), (1, 2, 2), (2, 3, 1)])
def test_micro_batches_are_those_of_as_many_more_ranks(rank, world, accumulation):
    plan = plan_epoch(DURATIONS, 60.0, seed=3, epoch=2)
    ours = list(rank_batches(plan, DURATIONS, 2, rank, world, accumulation=accumulation))
    for k in range(accumulation):
        alone = rank_batches(plan, DURATIONS, 2, rank * accumulation + k, world * accumulation)
        assert ours[k::accumulation] == list(alone)


def test_a_run_goes_through_the_epochs_and_begins_anywhere():
    epochs = [list(rank_batches(plan_epoch(DURATIONS, 60.0, 3, e), DURATIONS, e, 1, 2)) for e in range(3)]
    run = list(run_batches(DURATIONS, 60.0, 3, 0, 2 * len(epochs[0]) + 5, rank=1, world=2))
    assert run == (epochs[0] + epochs[1] + epochs[2])[: len(run)] and len(run) == 2 * len(epochs[0]) + 5
    for first in (3, len(epochs[0]), len(epochs[0]) + 2, len(run)):
        assert list(run_batches(DURATIONS, 60.0, 3, first, len(run), rank=1, world=2)) == run[first:]


@pytest.mark.parametrize(("world", "accumulation"), [(4, 1), (2, 3)])
def test_batches_of_few_clips_are_the_same_for_any_number_of_ranks(world, accumulation):
    alone = list(run_batches(DURATIONS, 15.0, 3, 0, 50))
    assert min(map(len, alone)) == 2 < world * accumulation
    ranks = [list(run_batches(DURATIONS, 15.0, 3, 0, 50, r, world, accumulation=accumulation)) for r in range(world)]
    for step, batch in enumerate(alone):
        parts = [part for rank in ranks for part in rank[step * accumulation : (step + 1) * accumulation]]
        assert sorted(sum(parts, [])) == batch and ([] in parts) == (len(batch) < world * accumulation)


def test_the_order_is_numpys_and_batches_are_filled_one_clip_after_the_other():
    seconds = np.asarray(DURATIONS)
    batches, batch = [], []
    for index in np.random.default_rng((3, 1)).permutation(len(seconds)).tolist():
        if len(batch) >= 2 and sum(seconds[batch]) + seconds[index] > 60.0:
            batches, batch = [*batches, batch], []
        batch.append(index)
    assert plan_epoch(seconds, 60.0, seed=3, epoch=1) == batches


def test_frames_of_two_three_and_five_would_be_a_third_padding():
    assert padding_share([2, 3, 5]) == pytest.approx(1 / 3)
    assert padding_share([7, 7]) == 0.0
