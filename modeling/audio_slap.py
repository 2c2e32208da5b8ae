"""From whatever a caller holds (file, bytes, array, dictionary, decoder) to a mono float32 waveform at one rate.

Nothing is guessed: what is wrong with a clip is an `AudioError` that names the clip. Channels are averaged before
resampling, and soxr (HQ) is the only resampler, so that a clip sounds the same whichever decoder read it.
"""

# Libraries that not every machine has are imported in `try:` blocks inside functions: transformers asks for each
# import outside a `try:` (inside functions too) before it loads code that sits beside weights.
import mmap
import os
import re
import shutil
import struct
import subprocess
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any

import numpy as np

MAX_CHANNELS = 8  # 7.1 surround; an axis longer than this is never taken for channels
RATES = range(1_000, 10_000_001)  # Hz; outside of it a header is broken, and a second could become a terabyte
BLOCK_SECONDS = 30.0  # decoded at once; headers are not believed about how much there is
MAX_PEAK = 100.0  # 40 dB over full scale: beyond it samples are unscaled integers, not sound
STREAMED_SIZES = range(0x7FFF0000, 0x1_0000_0000)  # WAV sizes that writers to a pipe put in place of the true one
INTEGER_SCALES = {"int16": 2.0**-15, "int32": 2.0**-31}


class AudioError(ValueError):
    """Something is wrong with one clip; the message names the clip, what came, what is accepted and what to do."""


def load_waveform(
    item: Any,
    target_rate: int,
    sampling_rate: int | None = None,
    resample: bool = False,
    name: str | None = None,
    min_samples: int = 1,
    end_to_end: bool = False,
) -> np.ndarray:
    """Read one clip, in any form, as a mono waveform.

    Args:
        item: a path, a file: or http(s): URL, the bytes of a file, {"bytes", "path"}, {"array", "sampling_rate"}, an
            `AudioDecoder` of torchcodec or datasets, or an array (numpy, torch, list). int16 and int32 arrays are
            scaled to [-1, 1], floats are kept. Two-dimensional arrays are (channels, samples) or (samples, channels):
            the axis of at most 8 is the channels.
        target_rate: Hz, of the result. Files, bytes and decoders know their rate and are always resampled to it.
        sampling_rate: Hz, of an array that comes without its own.
        resample: resample arrays too; otherwise an array at another rate is an error.
        name: what messages call the clip.
        min_samples: shortest clip accepted, in samples at `target_rate`.
        end_to_end: lay the channels end to end instead of averaging them, as CLAP's code does.
    Returns:
        (n,), float32, finite.
    Raises:
        AudioError: the clip cannot be read, is empty, too short, NaN, infinite or not scaled, or its rate is wrong.
        ImportError: a library that is needed to read it is missing; the message says which.
    """
    if end_to_end:
        return _end_to_end(item, target_rate, sampling_rate, resample, name, min_samples)
    parts = list(stream_waveform(item, target_rate, sampling_rate, resample, name, min_samples))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _end_to_end(item, target_rate, sampling_rate, resample, name, min_samples) -> np.ndarray:
    """The channels of a clip, each read as `load_waveform` reads a mono clip, one behind the other."""
    name, blocks = _open(item, target_rate, sampling_rate, resample, name, BLOCK_SECONDS)
    samples, rates = zip(*blocks, strict=True)
    samples = np.concatenate(samples)
    channels = samples.T if samples.ndim == 2 else [samples]
    return np.concatenate(
        [load_waveform(channel, target_rate, rates[0], True, name, min_samples) for channel in channels]
    )


def stream_waveform(
    item: Any,
    target_rate: int,
    sampling_rate: int | None = None,
    resample: bool = False,
    name: str | None = None,
    min_samples: int = 1,
    block_seconds: float = BLOCK_SECONDS,
) -> Iterator[np.ndarray]:
    """The waveform of `load_waveform`, to the last bit, in blocks: a clip of any length in bounded memory.

    What is wrong with a clip is said with the same words, when its end (or the break in its file) is reached. Whole in
    memory are only what came as bytes, from a URL or as an array, and files that soundfile cannot read.

    Args:
        block_seconds: length of a block; the last may be shorter, and resampled ones differ by a few samples.
        others: see `load_waveform`.
    Yields:
        (n,), float32, finite; n > 0.
    Raises:
        AudioError, ImportError: see `load_waveform`.
    """
    name, blocks = _open(item, target_rate, sampling_rate, resample, name, block_seconds)
    length, resampler = 0, None
    for mono, rate in _checked_mono(blocks, name):
        if rate != target_rate:
            resampler = resampler or _resampler(rate, target_rate)
            mono = resampler.resample_chunk(mono)
        length += len(mono)
        if len(mono):
            yield mono
    if resampler:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        length += len(rest)
        if len(rest):
            yield rest
    _check_length(length, target_rate, min_samples, name)


def decode(source: str | os.PathLike | bytes, name: str = "audio") -> tuple[np.ndarray, int]:
    """Decode a file as it is: all channels, own rate.

    soundfile reads it if it can, else torchcodec, else the program ffmpeg (m4a, sound tracks of videos).

    Args:
        source: path, file: or http(s): URL, or the bytes of a file.
        name: what messages call the clip.
    Returns:
        samples (n, channels) float32, and their rate in Hz.
    Raises:
        AudioError: missing, empty, not audio, cut short, or of a format that nothing installed can read.
        ImportError: none of soundfile, torchcodec and ffmpeg is installed.
    """
    blocks, rates = zip(*decode_blocks(source, name), strict=True)
    return np.concatenate(blocks), rates[0]


def decode_blocks(
    source: str | os.PathLike | bytes, name: str, block_seconds: float = BLOCK_SECONDS
) -> Iterator[tuple[np.ndarray, int]]:
    """As `decode`, in blocks, at least one."""
    source = _fetch(source, name)
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the wheel is there, its libsndfile is not
        yield from _decode_with_ffmpeg(source, name, f"soundfile could not be imported ({error})", block_seconds)
        return
    try:
        file = soundfile.SoundFile(BytesIO(source) if isinstance(source, bytes) else source)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = getattr(error, "error_string", str(error))
        yield from _decode_with_ffmpeg(source, name, f"soundfile says: {reason}", block_seconds)
        return
    with file:
        _check_file_rate(file.samplerate, name)
        announced = _announced_samples(file, source)
        if file.format == "MP3" and _falls_short(file.frames, announced):
            # Without a table of contents libsndfile guesses the length from the first bit rate and stops there.
            why = "soundfile would drop the end of this variable-rate MP3"
            yield from _decode_with_ffmpeg(source, name, why, block_seconds)
            return
        block = max(1, round(block_seconds * file.samplerate))
        # After a read of a seekable file soundfile seeks to where it is, and Opus and MP3 then decode otherwise.
        file.seekable = lambda: False
        found, at_end = 0, False
        while not at_end:
            try:
                samples = file.read(block, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(f"{name} is broken: {error.error_string}; replace the file") from error
            found += len(samples)
            at_end = len(samples) < block
            if at_end and (_falls_short(found, announced) or _breaks_off(file, source)):
                wanted = f"of {announced} announced" if announced > found else "and no end of the stream"
                raise AudioError(
                    f"{name} is cut short: it holds {found} samples at {file.samplerate} Hz {wanted}; fetch or write "
                    "the file again"
                )
            yield samples, file.samplerate


def _resampler(from_rate: int, to_rate: int) -> Any:
    """soxr's resampler of a stream; where the stream is cut into blocks does not change a bit of its result."""
    try:
        import soxr
    except ImportError as error:
        raise ImportError(
            f"resampling from {from_rate} Hz to {to_rate} Hz needs soxr: `pip install soxr`, or pass {to_rate} Hz"
        ) from error
    return soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")


def _open(
    item: Any,
    target_rate: int,
    sampling_rate: int | None,
    resample: bool,
    name: str | None,
    block_seconds: float,
) -> tuple[str, Iterable[tuple[np.ndarray, int]]]:
    """What messages call a clip of any form, and its samples (n,) or (n, channels) in blocks, each with their rate."""
    if isinstance(item, dict):
        item, sampling_rate, name = _open_dictionary(item, sampling_rate, name)
    if isinstance(item, str | os.PathLike):
        name = f"{name} ({os.fspath(item)!r})" if name else repr(os.fspath(item))
    name = name or "audio"

    if isinstance(item, str | os.PathLike | bytes | bytearray | memoryview):
        return name, decode_blocks(item, name, block_seconds)
    if hasattr(item, "get_all_samples"):
        samples, rate = _decode_with_torchcodec(lambda: item, name)
    else:
        samples, rate = _as_samples(item, name), sampling_rate
        _check_rate(rate, target_rate, resample, len(samples), name)
    block = max(1, round(block_seconds * rate))
    return name, ((samples[start : start + block], rate) for start in range(0, max(1, len(samples)), block))


def _open_dictionary(item: dict, sampling_rate: int | None, name: str | None) -> tuple[Any, int | None, str | None]:
    """The array, bytes or path inside a dictionary, its rate (its own, if it has one) and its name."""
    path = item.get("path")
    named = f"{name} ({path!r})" if name and path else name or (repr(path) if path else None)
    if item.get("array") is not None:
        return item["array"], item.get("sampling_rate", sampling_rate), named
    if item.get("bytes") is not None:
        return item["bytes"], None, named
    if path:
        return path, None, name
    raise AudioError(
        f"{name or 'audio'} is a dictionary with keys {sorted(map(str, item))} and no sound in it; accepted are "
        '{"array", "sampling_rate"} and {"bytes", "path"}'
    )


def _fetch(source: str | os.PathLike | bytes, name: str) -> str | bytes:
    """A readable path, or the bytes of a file that is not empty."""
    if isinstance(source, bytes | bytearray | memoryview):
        if not len(source):
            raise AudioError(f"{name} is empty: zero bytes")
        return bytes(source)
    path = os.fspath(source)
    address = urllib.parse.urlsplit(path) if isinstance(path, str) and "://" in path else None
    if address and address.scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(path, timeout=60) as response:
                return _fetch(response.read(), name)
        except OSError as error:  # URLError is one
            raise AudioError(f"{name} could not be fetched: {error}") from error
    if address and address.scheme == "file":
        path = urllib.request.url2pathname(address.path)
    if part := re.fullmatch(r"(.+)#bytes=(\d+)-(\d+)", path) if isinstance(path, str) else None:
        return _read_part(part[1], int(part[2]), int(part[3]), name)
    if os.path.isdir(path):
        raise AudioError(f"{name} is a folder; pass the files in it one by one")
    if not os.path.isfile(path):
        raise AudioError(f"{name}: there is no such file (in {os.getcwd()!r})")
    if not os.path.getsize(path):
        raise AudioError(f"{name} is empty: zero bytes")
    return path


def _read_part(path: str, first: int, last: int, name: str) -> bytes:
    """The bytes from the first to the last, both included: a sound inside a tar shard."""
    try:
        with open(path, "rb") as file:
            file.seek(first)
            content = file.read(last + 1 - first)
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error}") from error
    if not content or len(content) < last + 1 - first:
        raise AudioError(f"{name} is cut short: {path!r} ends before byte {last}")
    return content


def _decode_with_ffmpeg(
    source: str | bytes, name: str, why: str, block_seconds: float
) -> Iterator[tuple[np.ndarray, int]]:
    """As `decode_blocks`, by torchcodec or else by the program ffmpeg. `why` says what soundfile made of it."""
    try:
        from torchcodec.decoders import AudioDecoder
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: FFmpeg's libraries are missing
        if shutil.which("ffmpeg"):
            yield from _run_ffmpeg(source, name, why, block_seconds)
            return
        if "imported" in why:
            raise ImportError(f"{name}: {why}; `pip install soundfile` to read audio files") from error
        raise AudioError(
            f"{name} cannot be read, or it is broken; {why}. If it is audio (m4a, video), install FFmpeg, or convert "
            "it to wav, flac, ogg or mp3"
        ) from error
    yield _decode_with_torchcodec(lambda: AudioDecoder(source), name, why + "; ")


def _decode_with_torchcodec(open_decoder: Callable[[], Any], name: str, why: str = "") -> tuple[np.ndarray, int]:
    """As `decode`, by an `AudioDecoder`."""
    try:
        # Neither its resampler nor its down-mix (sqrt(2) louder than the mean) is used.
        samples = open_decoder().get_all_samples()
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = re.sub(r"^\w+, \S+:\d+, ", "", reason)  # where in its source it is
        raise AudioError(
            f"{name} is not audio that can be read, or it is broken; {why}torchcodec says: {reason}"
        ) from error
    _check_file_rate(int(samples.sample_rate), name)
    return samples.data.float().cpu().numpy().T, int(samples.sample_rate)


def _run_ffmpeg(source: str | bytes, name: str, why: str, block_seconds: float) -> Iterator[tuple[np.ndarray, int]]:
    """As `decode_blocks`, from the output of ffmpeg: the first sound track, all channels, own rate."""
    with tempfile.TemporaryDirectory(prefix="slap-sound-") as folder, open(f"{folder}/said", "w+b") as said:
        path = source
        if isinstance(source, bytes):  # its table may lie at the end, where a pipe cannot go
            path = f"{folder}/sound"
            with open(path, "wb") as file:
                file.write(source)
        # What a playlist names is not fetched. AU is the format that is written to a pipe with nothing to be patched.
        command = ["ffmpeg", "-v", "error", "-nostdin", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
        command += ["-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
        try:
            header = process.stdout.read(24)
            if len(header) == 24:
                start, _, _, rate, channels = struct.unpack(">5I", header[4:])
                _check_file_rate(rate, name)
                process.stdout.read(start - len(header))
                size = max(1, round(block_seconds * rate)) * channels * 4
                at_end = False
                while not at_end:
                    block = process.stdout.read(size)
                    at_end = len(block) < size
                    whole = block[: len(block) // (channels * 4) * channels * 4]
                    yield np.frombuffer(whole, ">f4").astype(np.float32).reshape(-1, channels), rate
            failed = process.wait()
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        said.seek(0)
        words = said.read().decode(errors="replace").strip().replace(f"file:{path}: ", "")
    if failed or len(header) < 24:
        reason = words.splitlines()[-1] if words else "nothing came out of it"
        if "matches no streams" in words:
            reason = "it has no sound track"
        raise AudioError(f"{name} is not audio that can be read, or it is broken; {why}; ffmpeg says: {reason}")


def _falls_short(found: int, announced: int) -> bool:
    """True if more is missing than 1 % and two MP3 frames, which is as exact as headers are."""
    return announced - found > max(announced / 100, 2304)


def _announced_samples(file: Any, source: str | bytes) -> int:
    """Samples per channel that the file claims to hold; where it makes no claim, what soundfile found."""
    if file.format == "MP3":
        if isinstance(source, bytes):
            return max(_mp3_samples(source), file.frames if _has_mp3_contents(source) else 0)
        with open(source, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return max(_mp3_samples(data), file.frames if _has_mp3_contents(data) else 0)
    # libsndfile trusts the length of the file and only notes in its log that the header said otherwise.
    note = re.search(r"^ ?(?:data|SSND) : (\d+) \(should be (\d+)\)", file.extra_info, re.MULTILINE)
    if note and int(note[1]) not in STREAMED_SIZES and int(note[2]):
        return round(file.frames * max(1.0, int(note[1]) / int(note[2])))
    return file.frames


def _breaks_off(file: Any, source: str | bytes) -> bool:
    """True if the last page of an Ogg file is not marked as the end of its stream."""
    if file.format != "OGG":
        return False
    if isinstance(source, bytes):
        tail = source[-(1 << 17) :]
    else:
        with open(source, "rb") as opened:
            opened.seek(max(0, os.path.getsize(source) - (1 << 17)))
            tail = opened.read()
    page = tail.rfind(b"OggS\x00")
    return page < 0 or page + 27 > len(tail) or not tail[page + 5] & 4


def _skip_id3(data: bytes | mmap.mmap) -> int:
    """Where an MP3's frames begin: behind the ID3v2 tag, whose size is four digits of seven bits."""
    if data[:3] != b"ID3" or len(data) < 10:
        return 0
    return 10 + (data[6] << 21 | data[7] << 14 | data[8] << 7 | data[9])


def _has_mp3_contents(data: bytes | mmap.mmap) -> bool:
    """True if the first frame is a table of contents, which states the length."""
    start = _skip_id3(data)
    return any(tag in data[start : start + 200] for tag in (b"Xing", b"Info", b"VBRI"))


def _mp3_samples(data: bytes | mmap.mmap) -> int:
    """Samples per channel in the frames of an MP3 without a table of contents, counted frame by frame; else 0."""
    if _has_mp3_contents(data):
        return 0
    samples, position = 0, _skip_id3(data)
    while (position := data.find(b"\xff", position)) >= 0 and position + 4 <= len(data):
        second, third = data[position + 1], data[position + 2]
        version, rate_code, kilobits = second >> 3 & 3, third >> 2 & 3, third >> 4
        if second & 0xE6 != 0xE2 or version == 1 or rate_code == 3 or kilobits in (0, 15):  # not a layer III frame
            position += 1
            continue
        full = version == 3  # MPEG 1; MPEG 2 and 2.5 have half the rates and half the samples in a frame
        rate = (44100, 48000, 32000)[rate_code] >> {3: 0, 2: 1, 0: 2}[version]
        kilobits = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)[kilobits] if full else (
            0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[kilobits]  # fmt: skip
        samples += 1152 if full else 576
        position += (144 if full else 72) * kilobits * 1000 // rate + (third >> 1 & 1)
    return samples


def _as_samples(item: Any, name: str) -> np.ndarray:
    """An array in any layout as (n,) or (n, channels), scaled, in floating point."""
    if hasattr(item, "detach") and hasattr(item, "cpu"):  # a tensor; open files can be "detached" too
        item = item.detach().cpu()
        item = (item.float() if item.is_floating_point() else item).numpy()
    try:
        array = np.asarray(item)
    except ValueError as error:  # rows of unequal length
        raise AudioError(f"{name} is a nested list that is no array: {error}; pass one array per clip") from error
    except MemoryError as error:
        raise AudioError(f"{name} ({type(item).__name__}) does not fit into memory; pass a file's path") from error
    if array.size and array.dtype.kind != "f" and array.dtype.name not in INTEGER_SCALES:
        raise AudioError(
            f"{name} is {type(item).__name__} of {array.dtype}; accepted are paths, bytes, dictionaries, decoders, and "
            "arrays of floating point in [-1, 1], int16 or int32"
        )
    if array.ndim not in (1, 2):
        raise AudioError(
            f"{name} has shape {array.shape}; one clip is (samples,), (channels, samples) or (samples, channels); pass "
            "several clips as a list"
        )
    if array.ndim == 2:
        small = [axis for axis in (0, 1) if array.shape[axis] <= MAX_CHANNELS]
        if array.size and len(small) != 1:
            raise AudioError(
                f"{name} has shape {array.shape}, where it is not clear which axis is the channels (at most "
                f"{MAX_CHANNELS}); pass (channels, samples) of one clip, and several clips as a list"
            )
        array = array.T if small == [0] else array
    if not array.size:
        return np.zeros(0, np.float32)
    if array.dtype.name in INTEGER_SCALES:
        array = array * np.float32(INTEGER_SCALES[array.dtype.name])
    return array


def _check_rate(rate: Any, target_rate: int, resample: bool, num_samples: int, name: str) -> None:
    if rate is None:
        raise AudioError(
            f"{name}: an array of {num_samples} samples came without its sampling rate (got None, the model hears "
            f"{target_rate} Hz); pass sampling_rate=..., with resample=True if it is another"
        )
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not rate > 0:
        raise AudioError(f"{name}: sampling_rate={rate!r} is no rate in Hz; the model hears {target_rate} Hz")
    if not RATES[0] <= rate <= RATES[-1]:
        raise AudioError(
            f"{name}: sampling_rate={rate!r}; accepted are {RATES[0]:,} to {RATES[-1]:,} Hz, and the model hears "
            f"{target_rate} Hz"
        )
    if rate != target_rate and not resample:
        raise AudioError(
            f"{name}: expected {target_rate} Hz, got {rate} Hz; pass resample=True, a path, or resample it first"
        )


def _check_file_rate(rate: int, name: str) -> None:
    if rate not in RATES:
        raise AudioError(
            f"{name} claims a sampling rate of {rate} Hz; accepted are {RATES[0]:,} to {RATES[-1]:,} Hz: its header is "
            "broken; write the file again, or pass its samples as an array with their true rate"
        )


def _mean_of_channels(samples: np.ndarray) -> np.ndarray:
    """(n,) or (n, channels) to (n,) float32. Adding columns takes half the time of `mean(axis=1)`."""
    if samples.ndim == 1:
        return np.ascontiguousarray(samples, dtype=np.float32)
    mono = samples[:, 0].astype(np.float32)
    for channel in range(1, samples.shape[1]):
        mono += samples[:, channel]
    if samples.shape[1] > 1:
        mono *= np.float32(1 / samples.shape[1])
    return mono


def _checked_mono(blocks: Iterable[tuple[np.ndarray, int]], name: str) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks averaged over their channels. Behind values that cannot be sound it yields nothing more, and reads on to
    the end to say how many there are."""
    length, bad, first_bad, has_nan, peak, rate = 0, 0, 0, False, 0.0, 0
    for samples, rate in blocks:
        mono = _mean_of_channels(samples)
        block_peak = np.abs(mono).max(initial=0.0)  # NaN and infinity show in it
        if not np.isfinite(block_peak):
            places = np.flatnonzero(~np.isfinite(mono))
            first_bad = first_bad if bad else length + places[0]
            bad, has_nan = bad + len(places), has_nan or bool(np.isnan(mono).any())
        peak = max(peak, block_peak)
        length += len(mono)
        if len(mono) and not bad and peak <= MAX_PEAK:
            yield mono, rate
    if not length:
        raise AudioError(f"{name} is empty: it holds no samples; pass a clip with sound in it")
    if bad:
        kind = "NaN" if has_nan else "infinite"
        raise AudioError(
            f"{name} has {bad} samples that are not finite ({kind}), the first at {first_bad / rate:.3f} s; mend or "
            "drop the clip"
        )
    if peak > MAX_PEAK:
        raise AudioError(
            f"{name} peaks at {peak:g}, and full scale is 1; if these are integers kept as floating point, divide by "
            "32768 or pass them as int16"
        )


def _check_length(length: int, rate: int, min_samples: int, name: str) -> None:
    if length < min_samples:
        raise AudioError(
            f"{name} is too short: {length} samples at {rate} Hz ({length / rate:.3f} s), and the model needs "
            f"{min_samples} ({min_samples / rate:.3f} s, one patch); pass a longer clip"
        )
