"""The sound of a record, decoded, checked and encoded again for a shard. The same sound always gives the same bytes."""

import dataclasses
import functools
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile

from ..modeling.audio_slap import AudioError, decode, load_waveform
from .records import Record

CODECS = ("flac", "opus", "keep", "path")
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_BLOCK = 1 << 16  # samples given to libsndfile at once: some of its encoders keep a whole write on the stack
_REVERSED_BITS = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class ClipError(ValueError):
    """A clip cannot become part of a corpus; `stage` is what failed: "read", "length" or "encode"."""

    def __init__(self, stage: str, reason: str):
        super().__init__(reason)
        self.stage = stage


@dataclasses.dataclass(frozen=True)
class SoundSettings:
    """How the sound of a corpus is kept.

    Args:
        codec: "flac" (16 bits, lossless from there), "opus" (in Ogg, lossy, about a fifth of the size), "keep" (the
            bytes as they came, only checked) or "path" (nothing is embedded; the corpus refers to the files).
        sampling_rate: Hz; the sound becomes mono at this rate. None: rate and channels as they came, which "keep"
            and "path" need.
        opus_kbps: target bit rate of a channel, 6 to 256.
        min_seconds: shorter clips are refused. The default is one patch of the model.
        max_seconds: longer clips are refused; None: any length.
    Raises:
        ValueError: a codec or rate that does not exist, or settings that contradict each other.
    Not stated in the papers; 16 kHz mono because the model hears no more.
    """

    codec: str = "flac"
    sampling_rate: int | None = 16_000
    opus_kbps: int = 32
    min_seconds: float = 0.15
    max_seconds: float | None = None

    def __post_init__(self):
        if self.codec not in CODECS:
            raise ValueError(f"codec is {self.codec!r}; accepted are {CODECS}")
        if self.codec in ("keep", "path") and self.sampling_rate is not None:
            raise ValueError(
                f"codec {self.codec!r} leaves the sound as it is, so sampling_rate must be None, not "
                f"{self.sampling_rate}; or choose 'flac' or 'opus'"
            )
        if self.sampling_rate is not None and not self.sampling_rate > 0:
            raise ValueError(f"sampling_rate is {self.sampling_rate}; expected Hz above 0, or None")
        if self.codec == "opus" and self.sampling_rate not in OPUS_RATES:
            raise ValueError(f"sampling_rate is {self.sampling_rate}; Opus has {OPUS_RATES} Hz")
        if not 6 <= self.opus_kbps <= 256:
            raise ValueError(f"opus_kbps is {self.opus_kbps}; accepted are 6 to 256")
        if not 0 <= self.min_seconds < (self.max_seconds or float("inf")):
            raise ValueError(f"min_seconds {self.min_seconds} must be at least 0 and below max_seconds")


def prepare_sound(record: Record, settings: SoundSettings) -> Record:
    """The record with its sound decoded once, measured, and embedded as the settings say.

    Args:
        record: as recipes yield it. `cut` is applied; a clip that is cut is encoded again, as FLAC where the codec is
            "keep". "keep" passes on as it is what has been prepared already: duration and rate are known.
        settings: see `SoundSettings`.
    Returns:
        A new record with audio, duration and sampling rate, and no `cut`.
    Raises:
        ClipError: the sound cannot be read, is shorter or longer than wanted, or cannot be encoded.
    """
    if settings.codec == "keep" and record.duration and record.sampling_rate and record.audio["bytes"]:
        return record
    try:
        samples, rate = _sound(record, settings.sampling_rate)
    except AudioError as problem:
        raise ClipError("read", str(problem)) from problem
    seconds = len(samples) / rate
    if not settings.min_seconds <= seconds <= (settings.max_seconds or float("inf")):
        limits = f"{settings.min_seconds} to {settings.max_seconds or 'any number of'} s"
        raise ClipError("length", f"{seconds:.3f} s long; wanted are {limits}")
    try:
        audio = _stored(record, samples, rate, settings)
    except (soundfile.LibsndfileError, OSError, ValueError) as problem:
        raise ClipError("encode", str(problem)) from problem
    return dataclasses.replace(record, audio=audio, duration=seconds, sampling_rate=rate, cut=None)


def encode(samples: np.ndarray, rate: int, codec: str, opus_kbps: int = 32) -> bytes:
    """A sound file in memory.

    Args:
        samples: (n,) or (n, channels), floating point; what exceeds full scale is clipped.
        rate: Hz; for Opus one of `OPUS_RATES`.
        codec: "flac" or "opus".
        opus_kbps: per channel.
    Returns:
        FLAC of 16 bits, or Opus in Ogg. The same samples give the same bytes.
    """
    kind = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}[codec]
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    # libsndfile maps 0 ... 1 to 256 ... 6 kbit/s of a channel.
    level = {"compression_level": (256 - opus_kbps) / 250} if codec == "opus" else {}
    content = io.BytesIO()
    with soundfile.SoundFile(content, "w", rate, channels, kind[1], format=kind[0], **level) as file:
        for start in range(0, len(samples), _BLOCK):
            file.write(np.clip(samples[start : start + _BLOCK], -1.0, 1.0))
    return with_ogg_serial(content.getvalue()) if codec == "opus" else content.getvalue()


def with_ogg_serial(content: bytes, serial: int = 1) -> bytes:
    """An Ogg file with one stream, its serial number (which libsndfile draws at random) replaced and its checksums
    made to fit."""
    pages, position = bytearray(content), 0
    while position < len(pages):
        segments = pages[position + 26]
        size = 27 + segments + sum(pages[position + 27 : position + 27 + segments])
        struct.pack_into("<II", pages, position + 14, serial, struct.unpack_from("<I", pages, position + 18)[0])
        struct.pack_into("<I", pages, position + 22, 0)
        page = bytes(pages[position : position + size])
        # Ogg's CRC takes bits from the highest, zlib's from the lowest, and Ogg inverts neither begin nor end.
        mirrored = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
        struct.pack_into("<I", pages, position + 22, int(f"{mirrored:032b}"[::-1], 2))
        position += size
    return bytes(pages)


def extension(audio: dict) -> str:
    """What kind of sound file it is, as a suffix without the dot: from its first bytes, else from its name."""
    content, path = audio["bytes"] or b"", audio["path"] or ""
    if content[:4] == b"OggS":
        return "opus" if b"OpusHead" in content[:64] else "ogg"
    kinds = {b"fLaC": "flac", b"RIFF": "wav", b"ID3\x03": "mp3", b"ID3\x04": "mp3"}
    return kinds.get(content[:4]) or Path(path).suffix.lstrip(".").lower() or "wav"


def _sound(record: Record, rate: int | None) -> tuple[np.ndarray, int]:
    """(n,) or (n, channels) of the clip, and its rate."""
    audio = record.audio
    source = audio["bytes"] if audio["bytes"] is not None else audio["path"]
    read = _decode_file if isinstance(source, str) and record.cut else _decode  # its other parts come next
    samples, own_rate = read(source, rate)
    if record.cut:
        start, end = (round(seconds * own_rate) for seconds in record.cut)
        if start >= len(samples):
            raise AudioError(f"cut {record.cut} s begins after the end of the file, {len(samples) / own_rate:.3f} s")
        samples = samples[start:end]
    return samples, own_rate


def _decode(source: bytes | str, rate: int | None) -> tuple[np.ndarray, int]:
    if rate is not None:
        return load_waveform(source, rate), rate
    samples, own_rate = decode(source)
    if not len(samples) or not np.isfinite(samples).all():
        raise AudioError("holds no samples, or some that are not finite")
    return samples, own_rate


_decode_file = functools.lru_cache(maxsize=1)(_decode)


def _stored(record: Record, samples: np.ndarray, rate: int, settings: SoundSettings) -> dict:
    audio, codec = record.audio, settings.codec
    if codec == "path":
        if record.cut or audio["path"] is None or not os.path.isfile(audio["path"]):
            raise ValueError("codec 'path' needs a file that is the whole clip; choose 'flac', 'opus' or 'keep'")
        return {"bytes": None, "path": os.path.abspath(audio["path"])}
    if codec == "keep" and not record.cut:
        content = audio["bytes"] if audio["bytes"] is not None else Path(audio["path"]).read_bytes()
        kept = {"bytes": content, "path": audio["path"]}
        return {"bytes": content, "path": f"{_stem(record)}.{extension(kept)}"}
    codec = "flac" if codec == "keep" else codec
    return {"bytes": encode(samples, rate, codec, settings.opus_kbps), "path": f"{_stem(record)}.{codec}"}


def _stem(record: Record) -> str:
    """The id as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in record.id)
