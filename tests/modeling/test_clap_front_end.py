"""What CLAP hears: decibels of Slaney mels of 44.1 kHz sound, short clips repeated; and its own habits on request."""

import json
import random

import numpy as np
import pytest
import torch

from hf_slap import SlapCnn14Config, SlapFeatureExtractor, SlapHtsatConfig

RATE = 44_100


@pytest.fixture(scope="module")
def front_end() -> SlapFeatureExtractor:
    return SlapFeatureExtractor.for_audio_config(SlapHtsatConfig())


@pytest.fixture(scope="module")
def sound(real_clips, front_end) -> np.ndarray:
    """A real clip, at 44.1 kHz."""
    return front_end.load(real_clips[0])


def mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's scale: linear below 1 kHz, 27 steps for each factor of 6.4 above."""
    return np.where(hz < 1000, 3 * hz / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))


def decibels_by_hand(waveform: np.ndarray, frame: int, rate: int, low: float, high: float) -> np.ndarray:
    """One frame: reflected ends, periodic Hann window, discrete Fourier transform, triangles of unit area, floor."""
    padded = np.concatenate([waveform[512:0:-1], waveform, waveform[-2:-514:-1]]).astype(np.float64)
    part = padded[320 * frame : 320 * frame + 1024] * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024))
    power = np.abs(np.exp(-2j * np.pi * np.outer(np.arange(513), np.arange(1024)) / 1024) @ part) ** 2
    fine = np.linspace(0, rate / 2, 400_001)
    edges = np.interp(np.linspace(mel(np.array(low)), mel(np.array(high)), 66), mel(fine), fine)
    hz = np.arange(513) * rate / 1024
    values = []
    for left, middle, right in zip(edges, edges[1:], edges[2:]):  # noqa: B905 - shorter by design
        triangle = np.clip(np.minimum((hz - left) / (middle - left), (right - hz) / (right - middle)), 0, None)
        values.append(power @ triangle * 2 / (right - left))
    return 10 * np.log10(np.maximum(values, 1e-10))


@pytest.mark.parametrize(
    "config, rate, high",
    [(SlapHtsatConfig(), 32_000, 14_000), (SlapCnn14Config(), RATE, 14_000)],
    ids=["2023: filters made for 32 kHz", "2022"],
)
def test_frames_are_those_of_the_formula(config, rate, high, sound):
    log_mel = SlapFeatureExtractor.for_audio_config(config).log_mel(sound)
    for frame in (0, 1, 40, len(sound) // 320 - 1):  # the first and the last of the clip see a reflected end
        assert np.abs(log_mel[frame] - decibels_by_hand(np.tile(sound, 9), frame, rate, 50, high)).max() < 2e-3


def test_arrays_and_tensors_and_blocks_give_the_same(front_end, sound):
    whole = front_end.log_mel(sound)
    assert np.abs(front_end.log_mel(torch.from_numpy(sound)).numpy() - whole).max() < 1e-3
    for waveform in (sound, np.tile(sound, 40)):  # shorter and longer than a window
        blocks = front_end.log_mel_blocks(waveform[i : i + 7919] for i in range(0, len(waveform), 7919))
        assert np.array_equal(np.concatenate(list(blocks)), front_end.log_mel(waveform))


def test_a_short_clip_is_repeated_as_sound_up_to_the_window(front_end, sound):
    assert len(sound) < 7 * RATE
    repeated = np.tile(sound, 40)[: 7 * RATE]
    assert front_end.log_mel(sound).shape == (965, 64) == (front_end.num_frames(len(sound)), 64)
    assert np.array_equal(front_end.log_mel(sound), front_end.log_mel(repeated))
    assert front_end.num_frames(8 * RATE) == 1 + 8 * RATE // 320  # a long one is heard as a whole


def test_silence_is_the_floor(front_end):
    assert np.allclose(front_end.log_mel(np.zeros(RATE, np.float32)), -100, atol=1e-3)


def test_the_middle_alone_is_heard_where_that_is_asked_for(front_end, sound):
    middle = SlapFeatureExtractor(**{**SlapHtsatConfig().front_end, "long_audio": "center"})
    long = np.tile(sound, 40)
    start = (len(long) - 7 * RATE) // 2
    assert np.array_equal(middle.log_mel(long), front_end.log_mel(long[start : start + 7 * RATE]))
    assert np.array_equal(np.concatenate(list(middle.log_mel_blocks(np.array_split(long, 3)))), middle.log_mel(long))
    assert middle.num_frames(len(long)) == 965


def test_compat_lays_channels_end_to_end_and_the_default_averages_them(front_end, sound):
    left, right = sound, np.roll(sound, 4_000)[: len(sound)] / 2
    stereo = {"array": np.stack([left, right]), "sampling_rate": RATE}
    compat = SlapFeatureExtractor(**{**SlapHtsatConfig().front_end, "compat": True})
    assert np.array_equal(compat.load(stereo), np.concatenate([left, right]))
    assert np.array_equal(np.concatenate(list(compat.stream(stereo))), np.concatenate([left, right]))
    assert np.allclose(front_end.load(stereo), (left + right) / 2, atol=1e-7)


def test_compat_draws_its_crop_as_the_original_does(sound):
    compat = SlapFeatureExtractor(**{**SlapHtsatConfig().front_end, "compat": True})
    long = np.tile(sound, 40)
    random.seed(3)
    heard = compat.log_mel(long)
    random.seed(3)
    start = random.randrange(len(long) - 7 * RATE)
    assert np.array_equal(heard, compat.log_mel(long[start : start + 7 * RATE]))


def test_settings_are_saved_and_those_of_slap_stay_as_they_were(front_end, tmp_path):
    front_end.save_pretrained(tmp_path)
    again = SlapFeatureExtractor.from_pretrained(tmp_path, compat=True)
    assert (again.window_seconds, again.mel_rate, again.compat) == (7.0, 32_000, True)
    saved = json.loads(SlapFeatureExtractor().to_json_string())
    assert not saved.keys() & {"mel_rate", "window_seconds", "long_audio", "compat"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"compat": True}, "need window_seconds"),
        ({"long_audio": "start"}, "accepted are"),
        ({"mel_rate": 8_000}, "half of mel_rate=8000"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SlapFeatureExtractor(**changes)
