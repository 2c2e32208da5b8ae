import io
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers.dynamic_module_utils import get_imports

from hf_slap.modeling import audio_slap
from hf_slap.modeling.audio_slap import AudioError, decode, load_waveform, stream_waveform

RATE = 16_000
TIME = np.arange(RATE * 3) / RATE
TONE = (0.5 * np.sin(2 * np.pi * 440 * TIME)).astype(np.float32)

load = partial(load_waveform, target_rate=RATE)
stream = partial(stream_waveform, target_rate=RATE)


def encoded(samples, rate=RATE, format="WAV", **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, **options)
    return buffer.getvalue()


def has_torchcodec() -> bool:
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


needs_torchcodec = pytest.mark.skipif(not has_torchcodec(), reason="torchcodec or FFmpeg is not installed")


@pytest.fixture
def without_torchcodec(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)


@pytest.fixture
def without_ffmpeg(monkeypatch, without_torchcodec):
    monkeypatch.setattr(audio_slap.shutil, "which", lambda program: None)


needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is not installed")


# What a clip may be


@pytest.mark.parametrize(
    "name, subtype, tolerance",
    [("a.wav", "PCM_16", 2**-15), ("a.wav", "FLOAT", 0), ("a.flac", "PCM_24", 1e-6), ("a.ogg", "VORBIS", 0.02),
     ("a.ogg", "OPUS", 0.05), ("a.mp3", None, 0.02)],
)  # fmt: skip
def test_a_file_gives_back_what_was_written(tmp_path, name, subtype, tolerance):
    soundfile.write(tmp_path / name, TONE, RATE, subtype=subtype)
    loaded = load(tmp_path / name)
    assert loaded.shape == TONE.shape and loaded.dtype == np.float32
    inside = slice(1600, -1600)  # lossy codecs ring at the ends
    assert np.abs(loaded - TONE)[inside].max() <= tolerance


def test_every_form_of_one_clip_is_the_same_waveform(tmp_path, clips):
    real = clips[0]
    path = tmp_path / "a clip.ogg"
    path.write_bytes(real["bytes"])
    wanted = load(real)
    assert len(wanted) > RATE and np.abs(wanted).max() > 0.01
    forms = [
        path, str(path), path.as_uri(), real["bytes"], bytearray(real["bytes"]), {"bytes": real["bytes"]},
        {"bytes": None, "path": str(path)}, {"array": wanted, "sampling_rate": RATE}, {"array": wanted.tolist(),
        "sampling_rate": np.int64(RATE), "path": "gone.wav"},
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(load(form), wanted)
    arrays = [
        wanted,
        wanted.tolist(),
        torch.from_numpy(wanted),
        wanted.astype(np.float64),
        wanted[None],
        wanted[:, None],
    ]
    for array in arrays:
        np.testing.assert_array_equal(load(array, sampling_rate=RATE), wanted)


def test_a_url_is_fetched(tmp_path):
    (tmp_path / "tone.flac").write_bytes(encoded(TONE, format="FLAC"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert len(load(f"{address}/tone.flac")) == len(TONE)
        with pytest.raises(AudioError, match=r"gone\.flac.* could not be fetched.*404"):
            load(f"{address}/gone.flac")
        server.shutdown()


@needs_torchcodec
def test_a_decoder_and_a_video_format_are_read(tmp_path):
    from torchcodec.decoders import AudioDecoder
    from torchcodec.encoders import AudioEncoder

    wav = encoded(np.stack([TONE, np.zeros_like(TONE)], axis=1), subtype="FLOAT")
    np.testing.assert_allclose(load(AudioDecoder(wav)), TONE / 2, atol=1e-6)
    AudioEncoder(torch.from_numpy(TONE)[None], sample_rate=RATE).to_file(tmp_path / "a.m4a")
    loaded = load(tmp_path / "a.m4a")
    assert abs(len(loaded) - len(TONE)) <= 2048  # AAC works in frames of 1024
    assert np.sqrt(np.mean(loaded[4000:-4000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)


# Scale, channels, rate


def test_integers_are_scaled_to_full_scale_and_floats_are_kept():
    halves = np.tile([0.5, -0.5], 8).astype(np.float32)
    assert load((halves * 2**15).astype(np.int16), sampling_rate=RATE).tolist() == halves.tolist()
    assert load((halves * 2**31).astype(np.int32), sampling_rate=RATE).tolist() == halves.tolist()
    assert load(torch.from_numpy(halves * 2**15).to(torch.int16), sampling_rate=RATE).tolist() == halves.tolist()
    assert load(torch.from_numpy(halves).bfloat16(), sampling_rate=RATE).tolist() == halves.tolist()
    assert load(halves * 3, sampling_rate=RATE).max() == 1.5


def test_channels_are_averaged_and_never_laid_end_to_end():
    opposed = np.stack([TONE, -TONE])
    for layout in (opposed, opposed.T, np.asfortranarray(opposed), torch.from_numpy(opposed)):
        silence = load(layout, sampling_rate=RATE)
        assert silence.shape == TONE.shape and not silence.any()
    assert not load(encoded(opposed.T, subtype="FLOAT")).any()
    three = np.stack([TONE, TONE * 2, TONE * 3])
    np.testing.assert_allclose(load(three, sampling_rate=RATE), TONE * 2, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 4000), (4000, 9), (5, 7), (2, 3, 4000), ()])
def test_an_unclear_layout_is_refused(shape):
    with pytest.raises(AudioError, match=r"shape .*list"):
        load(np.zeros(shape, np.float32), sampling_rate=RATE)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_pitch_level_and_duration(rate):
    time = np.arange(rate * 3) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    loaded = load(encoded(tone, rate, subtype="FLOAT"))
    assert abs(len(loaded) - len(TONE)) <= 1
    inside = slice(400, len(TONE) - 400)
    assert np.abs(loaded[inside] - TONE[inside]).max() < 1e-3
    np.testing.assert_array_equal(load(tone, sampling_rate=rate, resample=True), loaded)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    time = np.arange(48_000) / 48_000
    above = np.sin(2 * np.pi * 12_000 * time).astype(np.float32)
    assert np.abs(load(above, sampling_rate=48_000, resample=True)[400:-400]).max() < 1e-4


def test_channels_are_averaged_before_resampling(monkeypatch):
    made = []
    resampler = audio_slap._resampler
    monkeypatch.setattr(audio_slap, "_resampler", lambda *rates: made.append(rates) or resampler(*rates))
    left, right = TONE, -TONE  # whose mean is silence; resampled each for itself they would be two streams
    assert not load(encoded(np.stack([left, right], axis=1), 44_100, subtype="FLOAT")).any()
    assert made == [(44_100, RATE)]


# Block by block


@pytest.mark.parametrize("format, subtype", [("WAV", None), ("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"),
                                             ("MP3", None)])  # fmt: skip
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_blocks_are_the_whole_to_the_last_bit(tmp_path, format, subtype, rate):
    noise = np.random.default_rng(0).normal(scale=0.1, size=(7 * RATE + 13, 2))
    path = tmp_path / f"noise.{format.lower()}"
    path.write_bytes(encoded(noise, rate, format=format, subtype=subtype))
    whole = load(path)
    array = {"array": decode(path)[0], "sampling_rate": rate}
    for clip, options in [(path, {}), (path.read_bytes(), {}), (array, {"resample": True})]:
        for seconds in (0.31, 100.0):
            blocks = list(stream(clip, block_seconds=seconds, **options))
            np.testing.assert_array_equal(np.concatenate(blocks), whole)
            assert max(map(len, blocks)) <= (seconds + 0.05) * RATE  # soxr holds back a little, and gives it later


def test_what_is_wrong_is_said_in_the_same_words_block_by_block(tmp_path):
    spoiled, loud = TONE.copy(), TONE.copy()
    spoiled[[8000, 30_000]], loud[40_000] = np.nan, 2.0**15
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE * 3)
    (tmp_path / "broken.flac").write_bytes(encoded(noise, format="FLAC")[:40_000])
    (tmp_path / "short.wav").write_bytes(encoded(noise)[:40_000])
    (tmp_path / "zero.wav").touch()
    clips = [spoiled, loud, np.zeros(0), np.zeros(1999), *sorted(tmp_path.iterdir()), tmp_path / "gone.wav"]
    for clip in clips:
        options = {"sampling_rate": RATE, "min_samples": 2000, "name": "clip 7"}
        with pytest.raises(AudioError) as whole:
            load(clip, **options)
        with pytest.raises(AudioError) as in_blocks:
            list(stream(clip, block_seconds=0.25, **options))
        assert str(in_blocks.value) == str(whole.value)


# What is refused, and how


@pytest.mark.parametrize("given", [TONE, {"array": TONE}, {"array": TONE, "sampling_rate": None}])
def test_a_missing_rate_is_an_error_that_says_both(given):
    with pytest.raises(AudioError, match=r"clip 7.*got None.*16000 Hz.*sampling_rate"):
        load(given, name="clip 7")


@pytest.mark.parametrize(
    "clip, options",
    [(TONE, {"sampling_rate": 44_100}), ({"array": TONE, "sampling_rate": 44_100}, {"sampling_rate": RATE})],
)
def test_a_wrong_rate_is_an_error_that_says_both_unless_resampling_is_asked_for(clip, options):
    with pytest.raises(AudioError, match=r"clip 7: expected 16000 Hz, got 44100 Hz; .*resample=True"):
        load(clip, name="clip 7", **options)
    assert len(load(clip, resample=True, **options)) == round(len(TONE) * RATE / 44_100)


@pytest.mark.parametrize("rate", [0, -16_000, "16000", True, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(AudioError, match="no rate in Hz"):
        load(TONE, sampling_rate=rate, resample=True)


@pytest.mark.parametrize(
    "empty",
    [[], np.zeros(0), np.zeros((2, 0)), torch.zeros(0), {"array": [], "sampling_rate": RATE}, b"",
     encoded(np.zeros((0, 1)))],
)  # fmt: skip
def test_an_empty_clip_is_refused(empty):
    with pytest.raises(AudioError, match="clip 7 is empty"):
        load(empty, sampling_rate=RATE, name="clip 7")


def test_a_short_clip_is_refused_by_its_length_at_the_target_rate():
    assert len(load(np.zeros(7200), sampling_rate=48_000, resample=True, min_samples=2400)) == 2400
    with pytest.raises(AudioError, match=r"clip 7 is too short: 2399 samples at 16000 Hz \(0\.150 s\).* 2400 "):
        load(np.zeros(2399), sampling_rate=RATE, min_samples=2400, name="clip 7")


@pytest.mark.parametrize("value, kind", [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
def test_values_that_are_not_finite_are_refused(value, kind, tmp_path):
    spoiled = TONE.copy()
    spoiled[8000:8003] = value
    soundfile.write(tmp_path / "spoiled.wav", spoiled, RATE, subtype="FLOAT")
    for clip in (spoiled, torch.from_numpy(spoiled), tmp_path / "spoiled.wav"):
        with pytest.raises(AudioError, match=rf"has 3 samples that are not finite \({kind}\), the first at 0\.500 s"):
            load(clip, sampling_rate=RATE)


def test_integers_kept_as_floating_point_are_refused():
    with pytest.raises(AudioError, match="peaks at 16384.*divide by 32768"):
        load(TONE * 2**15, sampling_rate=RATE)


@pytest.mark.parametrize(
    "other",
    [None, 5, "", object(), io.BytesIO(b"RIFF"), np.zeros(4000, np.uint8), np.zeros(4000, complex), ["a", "b"],
     {"text": "a dog"}, {}, {"bytes": None, "path": None}, [[0.0], [0.0, 1.0]]],
)  # fmt: skip
def test_what_is_no_clip_is_refused(other):
    with pytest.raises(AudioError):
        load(other, sampling_rate=RATE)


def test_files_that_are_missing_empty_or_no_audio_are_told_apart(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("a dog barks\n" * 400)
    for name, complaint in [("gone.wav", "no such file"), ("empty.wav", "zero bytes"), ("", "folder")]:
        with pytest.raises(AudioError, match=complaint):
            load(tmp_path / name)
    with pytest.raises(AudioError, match=r"clip 7 \(.*text\.wav'\).*soundfile says: .*[Ff]ormat"):
        load(tmp_path / "text.wav", name="clip 7")


@pytest.mark.parametrize("format, subtype", [("WAV", None), ("FLAC", None), ("AIFF", None), ("OGG", "VORBIS"),
                                             ("OGG", "OPUS"), ("MP3", None)])  # fmt: skip
@pytest.mark.parametrize("kept", [0.6, 0.2])
def test_a_file_cut_short_is_refused_and_the_whole_one_is_not(tmp_path, format, subtype, kept):
    noise = np.random.default_rng(0).normal(scale=0.1, size=RATE * 3)
    whole = encoded(noise, format=format, subtype=subtype)
    assert len(load(whole)) == len(noise)
    path = tmp_path / f"cut.{format.lower()}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    for cut in (path, path.read_bytes()):
        with pytest.raises(AudioError, match="clip 7.*(cut short|broken)"):
            load(cut, name="clip 7")


def test_a_wav_written_to_a_pipe_announces_no_length_and_is_read_whole():
    streamed = bytearray(encoded(TONE))
    streamed[4:8] = streamed[40:44] = b"\xff\xff\xff\xff"
    assert len(load(bytes(streamed))) == len(TONE)


def mp3_without_contents(**options) -> tuple[int, bytes]:
    """Two seconds of a tone as an MP3, and then without its first frame, which states the length."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(44_100 * 2) / 44_100)
    whole = encoded(tone, 44_100, format="MP3", compression_level=0.5, **options)
    assert len(decode(whole)[0]) == len(tone)
    bare = whole[whole.index(b"\xff\xfb", 10) :]
    assert not {tag for tag in (b"Xing", b"Info") if tag in bare}
    return len(tone), bare


def test_an_mp3_without_contents_never_loses_its_end_in_silence(without_ffmpeg):
    length, bare = mp3_without_contents(bitrate_mode="VARIABLE")
    with soundfile.SoundFile(io.BytesIO(bare)) as file:
        assert len(file.read()) < length / 2  # what soundfile would have returned
    with pytest.raises(AudioError, match="would drop the end .*install FFmpeg"):
        decode(bare)


@needs_torchcodec
def test_an_mp3_without_contents_is_read_whole_by_torchcodec():
    length, bare = mp3_without_contents(bitrate_mode="VARIABLE")
    assert len(decode(bare)[0]) == pytest.approx(length, abs=3 * 1152)


def test_a_constant_rate_mp3_without_contents_needs_no_torchcodec(without_torchcodec):
    length, bare = mp3_without_contents(bitrate_mode="CONSTANT")
    assert len(decode(bare)[0]) == pytest.approx(length, abs=3 * 1152)


# Machines that lack something


def test_the_code_beside_the_weights_asks_for_no_audio_library():
    allowed = {*sys.stdlib_module_names, "numpy", "torch", "transformers"}
    for name in ("audio_slap", "feature_extraction_slap", "processing_slap"):
        assert set(get_imports(Path(audio_slap.__file__).with_name(f"{name}.py"))) <= allowed


def test_without_soundfile_and_torchcodec_arrays_still_work_and_files_say_what_to_install(
    tmp_path, monkeypatch, without_ffmpeg
):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    monkeypatch.setitem(sys.modules, "soundfile", None)
    monkeypatch.setitem(sys.modules, "soxr", None)
    assert len(load(TONE, sampling_rate=RATE)) == len(TONE)
    with pytest.raises(ImportError, match="pip install soundfile"):
        load(tmp_path / "a.wav")
    with pytest.raises(ImportError, match="44100 Hz to 16000 Hz needs soxr: `pip install soxr`"):
        load(TONE, sampling_rate=44_100, resample=True)


@needs_torchcodec
def test_torchcodec_alone_reads_the_same_samples(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", np.stack([TONE, TONE / 4], axis=1), 44_100)
    by_soundfile = load(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    np.testing.assert_allclose(load(tmp_path / "a.wav"), by_soundfile, atol=1e-6)


def test_a_format_that_only_ffmpeg_reads_says_so_without_it(tmp_path, without_ffmpeg):
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    with pytest.raises(AudioError, match=r"a\.m4a.*install FFmpeg, or convert it"):
        load(tmp_path / "a.m4a")


@pytest.fixture
def video(tmp_path) -> Path:
    """A picture that does not move, with two seconds of a tone at 44.1 kHz in two channels."""
    soundfile.write(tmp_path / "tone.wav", np.stack([TONE, np.zeros_like(TONE)], axis=1), RATE)
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:r=5", "-i", tmp_path / "tone.wav"]
    subprocess.run([*command, "-ar", "44100", "-c:a", "aac", "-shortest", tmp_path / "a.mp4"], check=True)
    return tmp_path / "a.mp4"


@needs_ffmpeg
def test_the_program_ffmpeg_reads_the_sound_track_of_a_video(video, without_torchcodec):
    samples, rate = decode(video)
    assert (samples.shape[1], rate) == (2, 44_100)
    assert len(samples) / rate == pytest.approx(len(TONE) / RATE, abs=0.1)
    assert np.sqrt(np.mean(load(video)[4000:-4000] ** 2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.02)
    assert decode(video.read_bytes())[0].tobytes() == samples.tobytes()
    whole = np.concatenate(list(stream(str(video), block_seconds=0.3)))
    np.testing.assert_array_equal(whole, load(video))


@needs_ffmpeg
@needs_torchcodec
def test_the_program_ffmpeg_and_torchcodec_hear_the_same(video, monkeypatch):
    by_torchcodec = load(video)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    by_ffmpeg = load(video)
    length = min(len(by_ffmpeg), len(by_torchcodec))
    assert abs(len(by_ffmpeg) - len(by_torchcodec)) <= 2048
    np.testing.assert_allclose(by_ffmpeg[:length], by_torchcodec[:length], atol=1e-4)


@needs_ffmpeg
def test_what_ffmpeg_cannot_read_is_an_error_in_its_words(tmp_path, video, without_torchcodec):
    content = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 3])
    subprocess.run(["ffmpeg", "-v", "error", "-i", video, "-an", "-c", "copy", tmp_path / "silent.mp4"], check=True)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match=r"cut\.mp4.*ffmpeg says: "):
        load(tmp_path / "cut.mp4")
    with pytest.raises(AudioError, match=r"silent\.mp4.*it has no sound track"):
        load(tmp_path / "silent.mp4")
    with pytest.raises(AudioError, match=r"list\.m3u8.*ffmpeg says: "):
        load(tmp_path / "list.m3u8")
