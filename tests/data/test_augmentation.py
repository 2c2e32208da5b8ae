import numpy as np
import pytest

from hf_slap.data import (
    add_noise,
    append,
    apply_gain,
    change_speed,
    equalize,
    low_pass,
    mix,
    random_crop,
    reverberate,
    spec_augment,
)

RATE = 16_000


def stripes(masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which frames and which bins of features that were all ones are masked throughout."""
    return (masked == 0).all(1), (masked == 0).all(0)


def test_only_whole_stripes_are_masked_and_the_rest_is_untouched():
    features = np.random.default_rng(0).uniform(1, 2, (997, 64)).astype(np.float32)
    before = features.copy()
    masked = spec_augment(features, np.random.default_rng(1))
    frames, bins = stripes(masked)
    gone = frames[:, None] | bins[None, :]
    assert gone.any() and not gone.all()
    assert np.array_equal(masked, np.where(gone, 0, features))
    assert np.array_equal(features, before) and masked.dtype == np.float32


def test_the_same_generator_draws_the_same_stripes():
    ones = np.ones((307, 64), np.float32)
    first, again, other = (spec_augment(ones, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_ten_seconds_lose_at_most_two_stripes_of_64_frames_and_two_of_8_bins():
    frames, bins = zip(
        *(stripes(spec_augment(np.ones((1000, 64)), np.random.default_rng(seed))) for seed in range(300)), strict=True
    )
    assert 100 < max(frame.sum() for frame in frames) <= 128
    assert 13 < max(band.sum() for band in bins) <= 16
    runs = [np.diff(np.flatnonzero(np.diff(frame, prepend=False, append=False)))[::2] for frame in frames]
    assert max(map(len, runs)) == 2


def test_thirty_seconds_lose_three_times_as_much_as_ten():
    lost = [
        np.mean([stripes(spec_augment(np.ones((length, 64)), np.random.default_rng(i)))[0].sum() for i in range(200)])
        for length in (1000, 3000)
    ]
    assert lost[1] / lost[0] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("length", [1, 2, 16, 31])
def test_a_short_clip_keeps_half_of_its_frames_at_least(length):
    for seed in range(50):
        frames, bins = stripes(spec_augment(np.ones((length, 64)), np.random.default_rng(seed), time_masks=5))
        assert frames.sum() <= length / 2


def test_few_bins_keep_half_of_themselves():
    for seed in range(50):
        assert stripes(spec_augment(np.ones((50, 13)), np.random.default_rng(seed), max_bins=13))[1].sum() <= 6


def test_no_stripes_change_nothing_and_negative_ones_are_refused():
    ones = np.ones((50, 13))
    assert np.array_equal(spec_augment(ones, np.random.default_rng(0), time_masks=0, freq_masks=0), ones)
    with pytest.raises(ValueError, match="max_frames -1"):
        spec_augment(ones, np.random.default_rng(0), max_frames=-1)


def test_crops_come_from_everywhere_and_short_clips_stay_whole():
    sound = np.arange(100)
    crops = [random_crop(sound, 90, np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(crop) == 90 and np.array_equal(crop, np.arange(crop[0], crop[0] + 90)) for crop in crops)
    assert {int(crop[0]) for crop in crops} == set(range(11))
    assert random_crop(sound, 100, np.random.default_rng(0)) is sound


def test_twenty_decibels_are_a_factor_of_ten():
    assert apply_gain(np.array([0.01, -0.5]), 20.0) == pytest.approx([0.1, -5.0])
    assert apply_gain(np.array([1.0]), -20.0) == pytest.approx([0.1])


@pytest.mark.parametrize(("hz", "kept"), [(500, 1.0), (1900, 1.0), (2300, 0.0), (5000, 0.0)])
def test_a_low_pass_at_2_khz_keeps_what_is_below(hz, kept):
    tone = np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)
    inside = slice(RATE // 10, -RATE // 10)  # a tone that sets in is more than a tone
    assert np.abs(low_pass(tone, 2000.0)[inside]).max() == pytest.approx(kept, abs=1e-2)


def test_a_cutoff_must_be_positive():
    with pytest.raises(ValueError, match="cutoff_hz is 0"):
        low_pass(np.ones(9), 0.0)


def test_the_second_sound_is_as_loud_as_asked_and_where_asked():
    first, second = np.full(11, 0.5, np.float32), np.array([0.1, -0.1, 0.1], np.float32)
    added = mix(first, second, level_db=20.0, offset=7) - first
    assert added == pytest.approx([0] * 7 + [5.0, -5.0, 5.0] + [0])
    assert first == pytest.approx(0.5)


def test_silence_is_mixed_without_a_division_by_zero():
    silence, sound = np.zeros(7, np.float32), np.array([0.2, 0.3], np.float32)
    assert mix(silence, sound, 0.0)[:2] == pytest.approx(sound)
    assert np.array_equal(mix(np.ones(7), silence, 0.0), np.ones(7))


def test_a_sound_that_does_not_fit_is_not_cut_in_silence():
    with pytest.raises(ValueError, match="3 samples at offset 9 do not fit into 11"):
        mix(np.ones(11), np.ones(3), 0.0, offset=9)


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def loudest_hz(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(waveform)))) * RATE / len(waveform)


def rms_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(waveform.astype(np.float64) ** 2)))


def test_twice_as_fast_is_half_as_long_and_an_octave_higher():
    fast, slow = change_speed(tone(500), 2.0), change_speed(tone(500), 0.5)
    assert abs(len(fast) - 8_000) <= 2 and abs(len(slow) - 32_000) <= 2 and fast.dtype == np.float32
    assert loudest_hz(fast) == pytest.approx(1000, abs=3) and loudest_hz(slow) == pytest.approx(250, abs=3)
    with pytest.raises(ValueError, match="factor is 0"):
        change_speed(tone(500), 0.0)


def test_the_second_sound_comes_after_a_gap_at_its_level():
    first, second = tone(500), 0.01 * tone(2000, 0.5)
    both = append(first, second, level_db=-6.0, gap=800)
    assert len(both) == 16_000 + 800 + 8_000 and both.dtype == np.float32
    assert np.array_equal(both[:16_000], first) and not both[16_000:16_800].any()
    assert rms_db(both[16_800:]) - rms_db(first) == pytest.approx(-6.0, abs=0.01)


def test_an_equalizer_raises_the_low_and_lowers_the_high_tone_and_keeps_the_length():
    gains = np.linspace(12, -12, 8)  # +12 dB at 50 Hz to -12 dB at 8 kHz
    for hz, length in ((50, 16_000), (631, 16_001), (7_900, 15_991)):
        sound = tone(hz, 2)[:length]
        expected = 12 - 24 * np.log(hz / 50) / np.log(8_000 / 50)
        change = rms_db(equalize(sound, gains)) - rms_db(sound)
        assert len(equalize(sound, gains)) == length and change == pytest.approx(expected, abs=0.4)
    assert equalize(tone(440), np.zeros(8)) == pytest.approx(tone(440), abs=1e-5)


def test_a_room_rings_after_the_sound_and_dies_away():
    click = np.zeros(16_000, np.float32)
    click[1_000] = 1.0
    ringing = reverberate(click, 0.5, -6.0, np.random.default_rng(0))
    assert len(ringing) == 16_000 and abs(ringing[:999]).max() < 1e-6
    direct, room = ringing[1_000] ** 2, np.sum(ringing[1_001:9_000] ** 2)
    assert 10 * np.log10(room / direct) == pytest.approx(-6.0, abs=1.0)
    early, late = rms_db(ringing[1_001:2_600]), rms_db(ringing[5_000:6_600])
    assert early - late == pytest.approx(60 * 4_000 / 8_000, abs=2), "60 dB in 0.5 s"


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_noise_lies_below_the_sound_and_falls_with_its_slope(slope):
    sound = tone(1000)
    noise = add_noise(sound, 20.0, slope, np.random.default_rng(1)) - sound
    assert rms_db(noise) - rms_db(sound) == pytest.approx(-20.0, abs=0.1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = np.log2(np.mean(power[3_000:4_000]) / np.mean(power[300:400])) / np.log2(10)
    assert octaves == pytest.approx(-slope, abs=0.15)
