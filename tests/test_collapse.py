"""A collapse is told, once, and what is healthy is left alone."""

import pytest

from hf_slap.collapse import SIGNS, CollapseWatch

# Of the tiny recipe in the middle of its run.
HEALTHY = {
    "target_entropy": 0.75, "prototype_entropy": 0.98, "target_information": 0.23, "prototypes_used": 0.85,
    "patch_rank": 15.0, "constant_prediction": 5.4, "masked_gain": 0.3, "audio_rank": 14.0, "text_rank": 9.0,
}  # fmt: skip
COLLAPSED = {
    "flat targets": {"target_entropy": 0.998, "prototype_entropy": 0.999, "target_information": 0.001},
    "one prototype": {"target_entropy": 0.003, "prototype_entropy": 0.004, "target_information": 0.001},
    "few prototypes": {"prototypes_used": 0.01},
    "constant features": {"patch_rank": 1.01},
    "constant student": {"masked_gain": -0.01},
    "coinciding clips": {"audio_rank": 1.1},
    "coinciding captions": {"text_rank": 1.1},
}


def judged(rows, **settings):
    watch = CollapseWatch(**settings)
    return [(step, event["sign"]) for step, row in enumerate(rows, 1) for event in watch({"step": step, **row})]


@pytest.mark.parametrize("sign", COLLAPSED)
def test_each_sign_is_told_once_after_enough_lines_in_a_row(sign):
    assert judged([HEALTHY | COLLAPSED[sign]] * 50, patience=10) == [(10, sign)]
    nine = [HEALTHY | COLLAPSED[sign]] * 9
    assert judged([*nine, HEALTHY, *nine], patience=10) == []


def test_every_sign_has_its_case():
    assert [sign.name for sign in SIGNS] == list(COLLAPSED)


def test_a_healthy_run_is_not_accused():
    assert judged([HEALTHY] * 50) == []


def test_a_collapse_that_was_over_and_comes_again_is_told_again():
    bad = HEALTHY | COLLAPSED["flat targets"]
    rows = [*[bad] * 12, *[HEALTHY] * 5, *[bad] * 12, *[HEALTHY] * 10, *[bad] * 12]
    assert judged(rows, patience=10) == [(10, "flat targets"), (12 + 5 + 12 + 10 + 10, "flat targets")]


def test_the_first_steps_are_not_judged():
    assert judged([HEALTHY | COLLAPSED["constant features"]] * 30, first_step=20, patience=10) == [
        (30, "constant features")
    ]


def test_a_run_without_masked_prediction_is_judged_by_what_it_has():
    assert judged([{"audio_rank": 1.0}] * 10, patience=10) == [(10, "coinciding clips")]


def test_the_message_holds_the_numbers_and_advice():
    watch = CollapseWatch(patience=1)
    (event,) = watch({"step": 1, **HEALTHY, **COLLAPSED["one prototype"]})
    assert "information 0.0010" in event["message"] and "centering=sinkhorn" in event["advice"]
