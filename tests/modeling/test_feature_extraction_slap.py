import json
import math

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function
from transformers.pipelines.base import pad_collate_fn

from hf_slap.modeling.audio_slap import AudioError
from hf_slap.modeling.feature_extraction_slap import SlapFeatureExtractor

RATE = 16_000
EXTRACTOR = SlapFeatureExtractor()
PLAIN = SlapFeatureExtractor(mean=0.0, std=1.0)  # natural logarithms as they are
LOG_FLOOR = math.log(1e-8)


def tone(hertz: float, amplitude: float = 0.5, samples: int = RATE) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)).astype(np.float32)


def noise(scale: float, samples: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(scale=scale, size=samples).astype(np.float32)


# Values


@pytest.mark.parametrize("samples", [2400, 2401, 2559, 2560, 16_000, 20_483])
def test_a_clip_has_one_frame_every_ten_milliseconds_and_one_more(samples):
    for wave in (noise(0.1, samples), torch.from_numpy(noise(0.1, samples))):
        assert EXTRACTOR.log_mel(wave).shape == (1 + samples // 160, 64) == (EXTRACTOR.num_frames(samples), 64)


def test_silence_is_the_floor_in_every_bin():
    assert PLAIN.log_mel(np.zeros(4000, np.float32)) == pytest.approx(LOG_FLOOR)
    assert EXTRACTOR.log_mel(np.zeros(4000, np.float32)) == pytest.approx((LOG_FLOOR + 9.93) / 5.72)


def test_the_rounding_of_a_16_bit_file_looks_like_silence():
    dither = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32) / 2**15
    assert PLAIN.log_mel(dither) == pytest.approx(LOG_FLOOR)


@pytest.mark.parametrize("hertz", [140.0, 440.0, 1000.0, 3000.0, 7000.0])
def test_a_tone_lands_in_the_bin_whose_centre_is_nearest(hertz):
    # Slaney's scale: 3 mels in 200 Hz up to 1 kHz, then 27 mels in every factor of 6.4. 66 edges make 64 triangles.
    def mels(frequency):
        return 3 * frequency / 200 if frequency < 1000 else 15 + 27 * math.log(frequency / 1000) / math.log(6.4)

    spacing = (mels(8000) - mels(50)) / 65
    expected = round((mels(hertz) - mels(50)) / spacing) - 1
    middle = PLAIN.log_mel(tone(hertz))[10:-10]
    assert (middle.argmax(axis=1) == expected).all()
    assert (middle.max(axis=1) - np.median(middle, axis=1) > 5).all()


def test_twice_the_amplitude_adds_log_4_to_every_bin_above_the_floor():
    quiet, loud = PLAIN.log_mel(noise(0.01)), PLAIN.log_mel(2 * noise(0.01))
    assert quiet.min() > LOG_FLOOR
    assert loud - quiet == pytest.approx(math.log(4), abs=1e-5)


def test_the_power_of_a_tone_is_what_its_window_says():
    # Parseval: all 512 transform bins hold 512 * sum((window * wave)^2), half of it at positive frequencies.
    wave = tone(1000.0, amplitude=0.5)
    power = np.exp(PLAIN.log_mel(wave)[50].astype(np.float64))
    weights = PLAIN.mel_filters.sum(axis=1)  # of one transform bin in all filters: nearly constant around 1 kHz
    total = 0.5**2 / 4 * 512 * (PLAIN.window**2).sum()
    assert power.sum() == pytest.approx(total * weights[32], rel=0.03)


def test_frames_are_centred_and_the_ends_reflected():
    click = np.zeros(8000, np.float32)
    click[4000] = 1.0  # frame 25 is centred on it; frames 24 and 26 see it under the window's flank
    energy = PLAIN.log_mel(click).mean(axis=1)
    assert energy.argmax() == 25
    assert energy[24] == pytest.approx(energy[26], abs=1e-4)
    heard = np.flatnonzero(energy > LOG_FLOOR + 1)
    assert heard.tolist() == [24, 25, 26]
    cosine = np.cos(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)  # its own reflection at sample 0
    frames = PLAIN.log_mel(cosine)
    assert frames[0] == pytest.approx(frames[50], abs=1e-3)


def test_no_filter_is_empty_or_overflows():
    assert ((EXTRACTOR.mel_filters > 0).sum(axis=0) >= 2).all()
    assert np.isfinite(EXTRACTOR.log_mel(100 * np.sign(noise(1.0)))).all()


# The same values by other ways


def by_transformers(wave: np.ndarray) -> np.ndarray:
    filters = mel_filter_bank(257, 64, 50.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    power = spectrogram(
        wave, window_function(400, "hann"), 400, 160, 512, power=2.0, mel_filters=filters, mel_floor=1e-8
    )
    return np.log(power).T


SYNTHETIC = {
    "loud noise": noise(5.0),
    "full scale": np.sign(noise(1.0)),
    "silence": np.zeros(RATE, np.float32),
    "tone": tone(440.3, 1.0),
    "constant": np.ones(RATE, np.float32),
    "click": np.eye(1, RATE, 8000, dtype=np.float32)[0],
    "noise after silence": np.concatenate([np.zeros(8000, np.float32), noise(0.3, 8000)]),
}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_numpy_torch_and_transformers_agree_on_extremes(name):
    wave = SYNTHETIC[name]
    ours = PLAIN.log_mel(wave)
    assert ours.dtype == np.float32
    assert np.abs(ours - PLAIN.log_mel(torch.from_numpy(wave)).numpy()).max() < 1e-5
    # transformers keeps the spectrum in complex64: beside a pure tone that is worth up to 1e-3
    assert np.abs(ours - by_transformers(wave)).max() < (1e-3 if name in ("tone", "constant") else 1e-4)


def test_numpy_torch_and_transformers_agree_on_real_clips(clips):
    for clip in clips:
        wave = PLAIN.load(clip)
        ours = PLAIN.log_mel(wave)
        assert np.abs(ours - PLAIN.log_mel(torch.from_numpy(wave)).numpy()).max() < 1e-5
        assert np.abs(ours - by_transformers(wave)).max() < 1e-4
        assert np.percentile(ours, 95) > -8  # there is something to hear


def test_a_long_clip_is_its_parts(clips):
    # 90 s cross the border at which the torch function splits its work; the borders of numpy's come every 128 frames.
    wave = np.tile(EXTRACTOR.load(clips[0]), 60)[: 90 * RATE]
    whole = EXTRACTOR.log_mel(wave)
    assert np.abs(whole - EXTRACTOR.log_mel(torch.from_numpy(wave)).numpy()).max() < 1e-5
    part = EXTRACTOR.log_mel(wave[8100 * 160 : 8300 * 160])
    np.testing.assert_allclose(whole[8102:8298], part[2:198], atol=1e-5)


@pytest.mark.parametrize("length, block", [(2400, 1), (2401, 200), (20_480, 37), (20_719, 161), (100_003, 16_000)])
def test_blocks_have_the_frames_of_the_whole_to_the_last_bit(length, block):
    wave = noise(0.1, length)
    blocks = EXTRACTOR.log_mel_blocks(wave[start : start + block] for start in range(0, length, block))
    np.testing.assert_array_equal(np.concatenate(list(blocks)), EXTRACTOR.log_mel(wave))


def test_a_hop_as_long_as_its_window_has_the_same_frames_in_blocks():
    extractor = SlapFeatureExtractor(hop_length=400, win_length=400)
    wave = noise(0.1, 9_001)
    blocks = extractor.log_mel_blocks(np.array_split(wave, 7))
    np.testing.assert_array_equal(np.concatenate(list(blocks)), extractor.log_mel(wave))


def test_blocks_that_are_too_short_altogether_are_refused():
    with pytest.raises(ValueError, match="1799 samples.*2400"):
        list(EXTRACTOR.log_mel_blocks([np.zeros(1000, np.float32), np.zeros(799, np.float32)]))


def test_a_clip_is_streamed_in_every_form_that_is_loaded(clips, tmp_path):
    (tmp_path / "clip.ogg").write_bytes(clips[0]["bytes"])
    for clip in (clips[0], tmp_path / "clip.ogg", {"array": EXTRACTOR.load(clips[0]), "sampling_rate": RATE}):
        np.testing.assert_array_equal(
            np.concatenate(list(EXTRACTOR.stream(clip, block_seconds=0.1))), EXTRACTOR.load(clip)
        )


def test_autocast_changes_nothing(clips):
    wave = torch.from_numpy(EXTRACTOR.load(clips[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(EXTRACTOR.log_mel(wave), EXTRACTOR.log_mel(wave.clone()))
        assert np.abs(EXTRACTOR.log_mel(wave).numpy() - EXTRACTOR.log_mel(wave.numpy())).max() < 1e-5


def test_real_sound_is_normalised_to_about_zero_and_one(clips):
    frames = np.concatenate([EXTRACTOR.log_mel(EXTRACTOR.load(clip)) for clip in clips])
    assert abs(frames.mean()) < 0.7 and 0.5 < frames.std() < 1.5


# Batches


def test_a_batch_is_its_clips_padded_and_masked(clips):
    batch = EXTRACTOR(clips, return_tensors="pt")
    assert batch["input_features"].dtype == torch.float32 and batch["input_features_mask"].dtype == torch.int64
    alone = [EXTRACTOR(clip, return_tensors="pt") for clip in clips]
    lengths = [one["input_features"].shape[1] for one in alone]
    assert batch["input_features"].shape == (6, max(lengths), 64) and len(set(lengths)) > 3
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        assert torch.equal(batch["input_features"][row, :length], one["input_features"][0])
        assert not batch["input_features"][row, length:].any()
        assert batch["input_features_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)


def test_the_kinds_of_items_may_be_mixed(clips, tmp_path):
    (tmp_path / "a.ogg").write_bytes(clips[0]["bytes"])
    wave = EXTRACTOR.load(clips[0])
    mixed = [clips[0], tmp_path / "a.ogg", clips[0]["bytes"], wave, torch.from_numpy(wave), {"array": wave,
             "sampling_rate": RATE}, np.stack([wave, wave])]  # fmt: skip
    features = EXTRACTOR(mixed, sampling_rate=RATE)["input_features"]
    assert isinstance(features, np.ndarray) and len(features) == 7
    assert (features == features[0]).all()


def test_one_clip_is_a_batch_of_one_and_stereo_is_one_clip():
    wave = noise(0.1, 4000)
    for one in (wave, wave.tolist(), torch.from_numpy(wave), np.stack([wave, wave]), [wave]):
        assert EXTRACTOR(one, sampling_rate=RATE)["input_features"].shape == (1, 26, 64)
    assert EXTRACTOR([wave.tolist()] * 2, sampling_rate=RATE)["input_features"].shape == (2, 26, 64)


def test_without_padding_every_clip_keeps_its_length():
    waves = [noise(0.1, 4000), noise(0.1, 5000)]
    features = EXTRACTOR(waves, sampling_rate=RATE, padding=False)
    assert [len(one) for one in features["input_features"]] == [26, 32]
    assert [len(one) for one in features["input_features_mask"]] == [26, 32]
    with pytest.raises(ValueError, match=r"\[26, 32\] frames.*padding=True"):
        EXTRACTOR(waves, sampling_rate=RATE, padding=False, return_tensors="pt")
    with pytest.raises(ValueError, match="padding='max_length'"):
        EXTRACTOR(waves, sampling_rate=RATE, padding="max_length")


def test_the_collate_function_of_the_stock_pipelines_makes_the_same_batch(clips):
    collate = pad_collate_fn(None, EXTRACTOR)
    by_pipeline = collate([dict(EXTRACTOR([EXTRACTOR.load(clip)], sampling_rate=EXTRACTOR.sampling_rate,
                                          return_tensors="pt")) for clip in clips])  # fmt: skip
    ours = EXTRACTOR(clips, return_tensors="pt")
    assert set(by_pipeline) == set(ours) == set(EXTRACTOR.model_input_names)  # in particular no attention_mask
    for name in ours:
        assert torch.equal(by_pipeline[name], ours[name])


def test_an_error_names_the_clip_of_the_batch(tmp_path):
    with pytest.raises(
        AudioError, match=r"audio\[1\] is too short: 1600 samples .* needs 2400 \(0\.150 s, one patch\)"
    ):
        EXTRACTOR([noise(0.1), noise(0.1, 1600)], sampling_rate=RATE)
    with pytest.raises(AudioError, match=r"audio\[1\] \('.*gone\.wav'\): there is no such file"):
        EXTRACTOR([noise(0.1), tmp_path / "gone.wav"], sampling_rate=RATE)
    with pytest.raises(AudioError, match=r"audio\[0\]: expected 16000 Hz, got 48000 Hz"):
        EXTRACTOR(noise(0.1), sampling_rate=48_000)
    with pytest.raises(ValueError, match="empty list"):
        EXTRACTOR([])


def test_the_shortest_clip_fills_one_patch():
    assert EXTRACTOR.min_samples == 2400
    assert EXTRACTOR(noise(0.1, 2400), sampling_rate=RATE)["input_features"].shape == (1, 16, 64)
    assert SlapFeatureExtractor(patch_frames=4).min_samples == 480
    with pytest.raises(ValueError, match=r"at least 2400 samples"):
        EXTRACTOR.log_mel(noise(0.1, 2399))
    with pytest.raises(ValueError, match=r"shape \(2, 4000\)"):
        EXTRACTOR.log_mel(noise(0.1, 8000).reshape(2, 4000))


def test_fetching_leaves_arrays_alone_and_reads_what_knows_its_rate(clips, tmp_path):
    (tmp_path / "a.ogg").write_bytes(clips[0]["bytes"])
    wave = noise(0.1)
    fetched = EXTRACTOR.fetch_audio([str(tmp_path / "a.ogg"), clips[0], wave, wave.tolist()], sampling_rate=RATE)
    np.testing.assert_array_equal(fetched[0], EXTRACTOR.load(clips[0]))
    np.testing.assert_array_equal(fetched[1], fetched[0])
    assert fetched[2] is wave and fetched[3] == wave.tolist()
    with pytest.raises(ValueError, match="16000 Hz.*44100 Hz"):
        EXTRACTOR.fetch_audio("a.wav", sampling_rate=44_100)


# Saving


def test_it_is_saved_without_arrays_and_comes_back_the_same(tmp_path):
    changed = SlapFeatureExtractor(mel_low_hz=20.0, log_floor=1e-6, mean=-7.1, std=4.2, patch_frames=8)
    changed.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert not {name for name, value in saved.items() if isinstance(value, list)}
    assert saved["log_floor"] == 1e-6 and saved["return_attention_mask"] is False
    loaded = SlapFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == changed.to_dict()
    np.testing.assert_array_equal(loaded.log_mel(tone(500.0)), changed.log_mel(tone(500.0)))
    assert SlapFeatureExtractor.from_pretrained(tmp_path, std=1.0).std == 1.0


@pytest.mark.parametrize(
    "options, complaint",
    [({"hop_lenght": 80}, r"unknown keys \['hop_lenght'\].*known keys are .*'hop_length'"),
     ({"padding_side": "left"}, "'right'"), ({"mel_high_hz": 8001.0}, "sampling_rate"), ({"std": 0.0}, "positive"),
     ({"log_floor": 0.0}, "positive"), ({"win_length": 600}, "n_fft"), ({"mel_low_hz": 9000.0}, "order")],
)  # fmt: skip
def test_parameters_that_do_not_fit_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        SlapFeatureExtractor(**options)
