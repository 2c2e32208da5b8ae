"""Probes find what is in the features, and no more."""

import numpy as np
import pytest

from hf_slap.evaluation.probes import attention_probe, few_shot, frame_probe, hold_out, linear_probe, nearest_neighbours

RNG = np.random.default_rng(0)
CLASSES = np.arange(60) % 3
TARGETS = np.eye(3)[CLASSES]
CENTRES = RNG.normal(size=(3, 7)) * 3


def features(spread: float, seed: int) -> np.ndarray:
    return CENTRES[CLASSES] + np.random.default_rng(seed).normal(size=(60, 7)) * spread


def accuracy(logits: np.ndarray) -> float:
    return float((logits.argmax(1) == CLASSES).mean())


def test_a_fifth_of_every_class_is_held_out():
    chosen = hold_out(TARGETS)
    assert [int(chosen[c == CLASSES].sum()) for c in range(3)] == [4, 4, 4]


def test_the_linear_probe_separates_classes_and_guesses_noise():
    logits, chosen = linear_probe(features(1.0, 1), TARGETS, features(1.0, 2), False)
    assert accuracy(logits) > 0.9 and chosen["l2"] > 0
    noise, _ = linear_probe(RNG.normal(size=(60, 7)), TARGETS, RNG.normal(size=(60, 7)), False)
    assert accuracy(noise) < 0.6


def test_neighbours_by_hand():
    train = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    targets = np.array([[1, 0], [1, 0], [0, 1]])
    scores, _ = nearest_neighbours(train, targets, np.array([[0.1, 5.0], [3.0, 0.0]]), k=1)
    assert scores.tolist() == [[0, 1], [1, 0]]  # lengths do not count
    both, chosen = nearest_neighbours(train, targets, np.array([[1.0, 0.0]]), k=10)
    assert chosen == {"k": 3} and both.sum() == pytest.approx(1)
    assert both[0, 1] == pytest.approx(np.exp(-1 / 0.07) / (1 + np.exp((1 / np.sqrt(1.01) - 1) / 0.07)), rel=1e-3)


def test_neighbours_as_scikit_learn_finds_them():
    sklearn = pytest.importorskip("sklearn.neighbors")
    train, test = features(4.0, 3), features(4.0, 4)
    theirs = sklearn.KNeighborsClassifier(
        10, metric="cosine", weights=lambda distance: np.exp(-distance / 0.07)
    ).fit(train, CLASSES)  # fmt: skip
    np.testing.assert_allclose(nearest_neighbours(train, TARGETS, test)[0], theirs.predict_proba(test), atol=1e-5)


def test_attention_finds_the_frame_that_tells_and_the_mean_does_not():
    def clips(seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        made = []
        for label in CLASSES:
            frames = rng.normal(size=(int(rng.integers(17, 29)), 8)) * 2.0
            frames[:, 7] = 0
            telling = rng.integers(len(frames))
            frames[telling] = 0
            frames[telling, [int(label), 7]] = 6.0  # the class, and a mark that this frame counts
            made.append(frames)
        return made

    train, test = clips(1), clips(2)
    logits, chosen = attention_probe(train, TARGETS, test, False, epochs=60, learning_rate=1e-2)
    means = [np.stack([frames.mean(0) for frames in side]) for side in (train, test)]
    by_mean, _ = linear_probe(means[0], TARGETS, means[1], False)
    assert accuracy(logits) > 0.85 and accuracy(logits) > accuracy(by_mean) + 0.1
    assert 1 <= chosen["epochs"] <= 60


def test_padding_of_a_batch_changes_no_clip():
    long, short = RNG.normal(size=(30, 8)), RNG.normal(size=(5, 8))
    train = [RNG.normal(size=(6, 8)) for _ in CLASSES]
    both, _ = attention_probe(train, TARGETS, [long, short], False, epochs=1)
    alone, _ = attention_probe(train, TARGETS, [short], False, epochs=1)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_few_shots_are_drawn_anew():
    draws = few_shot(features(2.0, 5), TARGETS, features(2.0, 6), shots=2, draws=3)
    assert len(draws) == 3 and not np.allclose(draws[0], draws[1])
    assert all(accuracy(draw) > 0.5 for draw in draws)


def test_frames_are_told_apart():
    frames = [np.concatenate([features(0.5, 7)[:3], features(0.5, 8)[:4]]) for _ in range(10)]
    targets = [np.concatenate([TARGETS[:3], TARGETS[:4]]).astype(bool)] * 10
    logits, chosen = frame_probe(frames, targets, frames[:2])
    assert [len(clip) for clip in logits] == [7, 7] and chosen["frames"] == 70
    assert ((logits[0] > 0) == targets[0]).all()
