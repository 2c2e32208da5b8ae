"""Whatever bytes or arrays come as sound: finite samples come out, or an AudioError that names the clip."""

import numpy as np
import pytest
import torch
from breaking import broken, soon, sound_files
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_slap import AudioError, SlapFeatureExtractor
from hf_slap.modeling.audio_slap import load_waveform, stream_waveform

FORMATS = ["wav", "float wav", "adpcm wav", "aiff", "flac", "vorbis", "opus", "mp3"]
EXTRACTOR = SlapFeatureExtractor()
SIDES = st.sampled_from([0, 1, 2, 8, 9, 1999, 2400, 2401, 5003])
SHAPES = st.one_of(st.just(()), st.tuples(SIDES), st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, SIDES)).filter(
    lambda shape: np.prod(shape) <= 50_000
)
RATES = st.sampled_from([None, 16_000, 16_000.0, 8000, 44_100, 96_000]) | st.sampled_from(
    [0, -1, 1, 1e-300, 1e300, float("nan"), float("inf"), "16000", True, np.float32(8000), 1 << 40, 7.5]
)


@pytest.fixture(scope="module")
def files(real_clips) -> dict[str, bytes]:
    return sound_files(real_clips)


@pytest.mark.parametrize("format", FORMATS)
@given(data=st.data())
def test_broken_files(files, format, data):
    content = data.draw(broken(files[format]))
    with soon():
        whole = hear(lambda: load_waveform(content, 16_000, name="the clip"))
        note(f"loaded: {whole}")
        blocks = hear(lambda: np.concatenate(list(stream_waveform(content, 16_000, name="the clip"))))
    if isinstance(whole, str) or isinstance(blocks, str):
        assert whole == blocks
    else:
        np.testing.assert_array_equal(whole, blocks)


@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", b"RIFF", b"OggS", b"fLaC", b"ID3\3\0\0", b"\xff\xfb", b"caff", b"FORM"]),
)
def test_any_bytes(content, start):
    with soon():
        hear(lambda: load_waveform(start + content, 16_000, name="the clip"))


@given(
    array=SHAPES.flatmap(
        lambda shape: (
            hnp.arrays(
                st.sampled_from([np.float32, np.float64, np.float16, np.int16, np.int32])
                | hnp.scalar_dtypes()
                | st.just(np.dtype(object)),
                shape,
                elements=None if shape else None,
                fill=None,
            )
            if np.prod(shape) < 10
            else st.tuples(
                st.sampled_from("efdghilBHILQ?FDSU"),
                st.sampled_from([0.0, 0.3, 1.0, -1.0, 99.0, 1e9, np.nan, np.inf]),
                st.integers(0, 9),
            ).map(lambda how: filled(shape, *how))
        )
    ),
    rate=RATES,
    resample=st.booleans(),
    form=st.sampled_from(["array", "list", "dictionary", "tensor", "batch"]),
    tensors=st.sampled_from([None, "np", "pt"]),
    padding=st.sampled_from([True, False, "longest", "max_length"]),
)
def test_any_array(array, rate, resample, form, tensors, padding):
    audio = array
    if form == "list":
        audio = array.tolist()
    elif form == "dictionary":
        audio = {"array": array, "sampling_rate": rate}
    elif form == "tensor":
        try:
            audio = torch.from_numpy(np.ascontiguousarray(array))
        except (TypeError, ValueError):  # no tensor has that type
            pass
    elif form == "batch":
        audio = [array, array[:-1] if array.ndim else array]
    with soon():
        try:
            found = EXTRACTOR(audio, sampling_rate=rate, resample=resample, padding=padding, return_tensors=tensors)
        except (AudioError, ValueError) as error:
            assert len(str(error)) > 10
            return
    features, mask = found["input_features"], found["input_features_mask"]
    for frames, sound in zip(features, mask, strict=True):
        frames, sound = np.asarray(frames), np.asarray(sound)
        assert frames.shape == (len(sound), 64) and np.isfinite(frames).all() and 0 < sound.sum() <= len(frames)


def filled(shape, code: str, value: float, seed: int) -> np.ndarray:
    """An array of one value and some noise, of any type."""
    noise = np.random.default_rng(seed).uniform(-0.1, 0.1, shape) if seed else np.zeros(shape)
    with np.errstate(all="ignore"):
        return (noise + value).astype(np.dtype(code))


def hear(load) -> np.ndarray | str:
    """Samples, or why there are none."""
    try:
        wave = load()
    except AudioError as error:
        assert str(error).startswith("the clip")
        return str(error)
    assert wave.ndim == 1 and wave.dtype == np.float32 and len(wave) and np.isfinite(wave).all()
    return wave
