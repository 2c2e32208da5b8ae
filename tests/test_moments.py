"""Moments of a recording are those of the dense features, however it is cut."""

import numpy as np
import pytest
import torch

import hf_slap
from hf_slap.moments import embed_moments, seconds_per_moment, stream_moments

RATE = 16_000


@pytest.fixture(scope="module")
def model(tiny_folder) -> hf_slap.SlapModel:
    return hf_slap.SlapModel.from_pretrained(tiny_folder).eval()


@pytest.fixture(scope="module")
def wave(tiny_processor, real_clips) -> np.ndarray:
    """67.3 s of sound."""
    clips = [tiny_processor.feature_extractor.load(clip) for clip in real_clips]
    return np.resize(np.concatenate(clips), round(67.3 * RATE))


def moments(wave, model, extractor, block=10**9, **keywords):
    blocks = (wave[start : start + block] for start in range(0, len(wave), block))
    parts = list(stream_moments(blocks, model, extractor, **keywords))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def test_a_moment_is_pooled_from_half_a_second_on_either_side(model, tiny_processor, wave):
    extractor, short = tiny_processor.feature_extractor, wave[: 3 * RATE]
    embeds, _, frames = moments(short, model, extractor)
    assert seconds_per_moment(model) == pytest.approx(0.16)
    assert embeds.shape == (18, model.config.projection_dim) and frames.shape == (18 * 16, 64)
    np.testing.assert_array_equal(frames, extractor.log_mel(short)[: 18 * 16])
    with torch.inference_mode():
        hidden = model.audio_model(torch.from_numpy(frames), clip_frames=[len(frames)]).last_hidden_state
        for moment, (first, last) in {0: (0, 3), 1: (0, 4), 9: (6, 12), 17: (14, 17)}.items():
            near = hidden[:, 4 * first : 4 * (last + 1)]  # four rows of patches in a column
            expected = model.audio_projection(model.audio_model.pooler(near, None))
            expected = torch.nn.functional.normalize(expected, dim=-1)[0]
            np.testing.assert_allclose(embeds[moment], expected, atol=1e-6)


def test_blocks_and_batches_change_nothing(model, tiny_processor, wave):
    extractor = tiny_processor.feature_extractor
    whole = moments(wave, model, extractor)
    assert len(whole[0]) == len(extractor.log_mel(wave)) // 16
    for block, seconds in ((1700, 1.0), (RATE * 30, 1e6)):
        for part, expected in zip(moments(wave, model, extractor, block, batch_seconds=seconds), whole, strict=True):
            np.testing.assert_allclose(part, expected, atol=1e-5)


def test_a_long_recording_is_heard_in_windows_and_every_moment_belongs_to_one(model, tiny_processor, wave):
    embeds, *_ = moments(wave, model, tiny_processor.feature_extractor)
    frames = torch.from_numpy(tiny_processor.feature_extractor.log_mel(wave))
    with torch.inference_mode():
        first = model.audio_model(frames[None, : 187 * 16]).last_hidden_state[0]  # 30 s are 187 columns
        expected = embed_moments(first, model).numpy()
    np.testing.assert_allclose(embeds[:170], expected[:170], atol=1e-5)


def test_levels_are_those_of_the_sound(model, tiny_processor):
    noise = np.random.default_rng(0).normal(size=2 * RATE).astype(np.float32) / np.sqrt(3)  # power of full-scale noise
    quiet, silence = noise / 100, np.zeros(2 * RATE, np.float32)
    _, decibels, _ = moments(np.concatenate([noise, quiet, silence]), model, tiny_processor.feature_extractor)
    assert decibels[5] == pytest.approx(decibels[18] + 40, abs=1.5)
    assert -8 < decibels[5] < 8 and decibels[-3] == pytest.approx(-80, abs=0.01)
