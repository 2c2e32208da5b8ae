"""Sound into bytes: what is kept, what is measured, what is refused, and that bytes repeat."""

import dataclasses
import io

import numpy as np
import pytest
import soundfile

from hf_slap.data.encoding import ClipError, SoundSettings, encode, extension, prepare_sound, with_ogg_serial
from hf_slap.data.records import Caption, Record
from hf_slap.modeling.audio_slap import load_waveform

SECONDS, RATE = 1.3, 22_050


def tone(rate: int = RATE, seconds: float = SECONDS) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def record(content: bytes | None, path: str | None = "tone.wav", **more) -> Record:
    captions = [Caption("a tone")]
    return Record("x/a b", "x", "x:1", {"bytes": content, "path": path}, captions, "CC0-1.0", True, "sound", **more)


@pytest.fixture
def stereo() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone(), 0 * tone()], axis=1), RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize(("codec", "kind", "off"), [("flac", b"fLaC", 1e-4), ("opus", b"OggS", 0.02)])
def test_sound_becomes_mono_at_the_wanted_rate(stereo, codec, kind, off):
    made = prepare_sound(record(stereo), SoundSettings(codec, 16_000))
    assert made.audio["bytes"][:4] == kind
    assert made.audio["path"] == f"x_a_b.{codec}" and extension(made.audio) == codec
    assert (made.sampling_rate, made.duration) == (16_000, pytest.approx(SECONDS, abs=1e-3))
    heard = load_waveform(made.audio, 16_000)
    assert np.abs(heard[800:20_000] - tone(16_000)[800:20_000] / 2).max() < off  # the mean of the tone and silence


def test_the_same_sound_gives_the_same_bytes_and_opus_stays_readable():
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) / 9
    first, second = encode(noise, 16_000, "opus"), encode(noise, 16_000, "opus")
    assert first == second
    assert with_ogg_serial(first, 77) != first
    assert with_ogg_serial(with_ogg_serial(first, 77), 1) == first
    # Checksums of libsndfile's own pages: the serial it drew gives them back.
    file = io.BytesIO()
    soundfile.write(file, noise, 16_000, format="OGG", subtype="OPUS")
    drawn = file.getvalue()
    assert with_ogg_serial(drawn, int.from_bytes(drawn[14:18], "little")) == drawn


def test_more_bits_sound_nearer():
    noise = np.random.default_rng(0).standard_normal(32_000).astype(np.float32) / 9
    assert len(encode(noise, 16_000, "opus", 96)) > 1.5 * len(encode(noise, 16_000, "opus", 32))


def test_keep_keeps_the_bytes_and_path_embeds_nothing(stereo, tmp_path):
    as_it_came = SoundSettings("keep", None)
    made = prepare_sound(record(stereo, "tone"), as_it_came)
    assert made.audio == {"bytes": stereo, "path": "x_a_b.wav"}
    assert (made.sampling_rate, made.duration) == (RATE, pytest.approx(SECONDS, abs=1e-4))
    file = tmp_path / "tone.wav"
    file.write_bytes(stereo)
    assert prepare_sound(record(None, str(file)), as_it_came).audio["bytes"] == stereo
    made = prepare_sound(record(None, str(file)), SoundSettings("path", None))
    assert made.audio == {"bytes": None, "path": str(file)}
    with pytest.raises(ClipError, match="needs a file that is the whole clip") as caught:
        prepare_sound(record(stereo), SoundSettings("path", None))
    assert caught.value.stage == "encode"


def test_a_cut_is_the_part_of_the_file(stereo, tmp_path):
    file = tmp_path / "tone.wav"
    file.write_bytes(stereo)
    settings = SoundSettings("flac", 16_000)
    whole = load_waveform(prepare_sound(record(None, str(file)), settings).audio, 16_000)
    for span in ((0.25, 0.75), (0.75, 9.0)):
        made = prepare_sound(record(None, str(file), cut=span), settings)
        start, end = round(span[0] * 16_000), round(span[1] * 16_000)
        np.testing.assert_array_equal(load_waveform(made.audio, 16_000), whole[start:end])
        assert made.cut is None and made.duration == pytest.approx(min(span[1], SECONDS) - span[0], abs=1e-3)
    with pytest.raises(ClipError, match="begins after the end"):
        prepare_sound(record(None, str(file), cut=(5.0, 6.0)), settings)


@pytest.mark.parametrize(
    ("content", "stage"),
    [(b"no sound at all", "read"), (None, "read"), (b"short", "read"), ("0.1", "length"), ("cut", "read")],
)
def test_what_cannot_be_used_is_an_error_with_its_stage(content, stage, wav):
    made = {"0.1": wav(0.1), "cut": wav(1.0)[:9000]}.get(content, content)
    with pytest.raises(ClipError) as caught:
        prepare_sound(record(made, "missing.wav"), SoundSettings())
    assert caught.value.stage == stage


def test_too_long_is_refused_where_a_limit_is_set(wav):
    prepare_sound(record(wav(2.0)), SoundSettings(max_seconds=2.0))
    with pytest.raises(ClipError, match="2.000 s long; wanted are 0.15 to 1.9 s"):
        prepare_sound(record(wav(2.0)), SoundSettings(max_seconds=1.9))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codec": "mp3"}, "accepted are"),
        ({"codec": "keep"}, "must be None, not 16000"),
        ({"codec": "opus", "sampling_rate": 44_100}, "Opus has"),
        ({"opus_kbps": 5}, "6 to 256"),
        ({"min_seconds": 3.0, "max_seconds": 2.0}, "below max_seconds"),
        ({"sampling_rate": 0}, "Hz above 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SoundSettings(), **change)
