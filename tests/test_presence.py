"""Scores of labels that are judged one by one."""

import math

import numpy as np
import pytest

from hf_slap.presence import BACKGROUND, presence, prompts

X, Y, Z = np.eye(3, dtype=np.float32)


def test_a_label_competes_with_all_background_texts_but_the_one_most_like_it():
    score = presence(X[None], labels=X[None], background=np.stack([Y, X, Z]), scale=2.0)
    assert score.item() == pytest.approx(math.exp(2) / (math.exp(2) + 2))  # Y and Z, each with exp(0)
    score = presence(Y[None], labels=X[None], background=np.stack([X, Y, Z]), scale=2.0)
    assert score.item() == pytest.approx(1 / (1 + math.exp(2) + 1))


def test_labels_do_not_compete_with_each_other():
    background = np.stack([X, Y, Z])
    alone = presence(X[None], X[None], background, 3.0)
    together = presence(X[None], np.stack([X, X, Y]), background, 3.0)
    assert together[0, :2] == pytest.approx([alone.item()] * 2) and together[0, 2] < 0.5


def test_the_largest_scale_stays_finite():
    scores = presence(np.stack([X, -X]), X[None], np.stack([Y, Z, -X]), 100.0)
    assert scores[:, 0] == pytest.approx([1, 0], abs=1e-12)


def test_prompts_put_labels_into_the_template():
    assert prompts(["rain"]) == ["This is a sound of rain."] and len(set(BACKGROUND)) == len(BACKGROUND) > 2
    for labels, template, said in (
        (["rain"], "a sound", "must hold {}"),
        ("rain", "{}", "accepted is a list"),
        ([], "{}", "accepted is a list"),
        (["rain", " "], "{}", "none empty"),
        (["rain", "dog", "rain"], "{}", r"\['rain'\] come twice"),
    ):
        with pytest.raises(ValueError, match=said):
            prompts(labels, template)
