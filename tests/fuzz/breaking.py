"""How good files are broken, and how long reading them may take."""

import io
import time
from contextlib import contextmanager

import numpy as np
import soundfile
from hypothesis import strategies as st

NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFE, 0xFFFF_FFFF]


@contextmanager
def soon(seconds: float = 5.0):
    """Fails when more processor time passes: nothing here may hang."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


@st.composite
def broken(draw, content: bytes) -> bytes:
    """A file in which something was changed, more often near its start, where headers are."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, min(len(data), 120)) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "number", "cut", "drop", "repeat", "insert"]))
        if kind == "flip" and data:
            data[min(place, len(data) - 1)] ^= draw(st.integers(1, 255))
        elif kind == "number":
            size, order = draw(st.sampled_from([1, 2, 4, 8])), draw(st.sampled_from(["little", "big"]))
            number = draw(st.sampled_from(NUMBERS)) % (1 << 8 * size)
            data[place : place + size] = number.to_bytes(size, order)
        elif kind == "cut":
            del data[place:]
        elif kind == "drop":
            del data[place : place + draw(st.integers(1, 300))]
        elif kind == "repeat":
            data[place:place] = data[place : place + draw(st.integers(1, 300))]
        elif kind == "insert":
            data[place:place] = draw(st.binary(max_size=16))
    return bytes(data)


def sound_files(real_clips) -> dict[str, bytes]:
    """One real clip in every format that libsndfile writes and users have."""
    wave, rate = soundfile.read(io.BytesIO(real_clips[0]["bytes"]), dtype="float32")
    stereo = np.stack([wave, wave[::-1]], axis=1)[: rate // 2]
    files = {}
    for name, format, subtype in (
        ("wav", "WAV", "PCM_16"), ("float wav", "WAV", "FLOAT"), ("adpcm wav", "WAV", "IMA_ADPCM"), ("aiff", "AIFF", None),
        ("flac", "FLAC", None), ("vorbis", "OGG", "VORBIS"), ("opus", "OGG", "OPUS"), ("mp3", "MP3", None),
    ):  # fmt: skip
        file = io.BytesIO()
        soundfile.write(file, stereo, rate, format=format, subtype=subtype)
        files[name] = file.getvalue()
    return files
