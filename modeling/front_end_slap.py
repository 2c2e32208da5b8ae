"""From a waveform to what the model hears, in numpy alone: log-mel frames, and the windows of long clips."""

from itertools import pairwise
from typing import Any

import numpy as np

CHUNK = 128  # frames transformed at once by numpy: they stay in the cache of one core
_ROWS = 8  # of a matrix product: so small a one stays in its thread, where OpenBLAS would spend ten times the CPU time


def log_mel_spectrogram(
    waveform: np.ndarray, window: np.ndarray, mel_filters: np.ndarray, hop_length: int, log_floor: float
) -> np.ndarray:
    """Natural logarithm of mel power of centred frames; the reference, of which `log_mel_spectrogram_torch` is a twin.

    The transform runs in float64, which costs no more than float32 here: in float32 the rounding noise of a loud bin
    drowns quiet ones, and two libraries then differ by up to 1e-2 in the logarithm.

    Args:
        waveform: (n,), n > len(window) / 2. Frame t is centred on sample t * hop_length; both ends are reflected.
        window: (win_length,).
        mel_filters: (n_fft // 2 + 1, mels); frames are filled up with zeros to n_fft.
        hop_length: samples from frame to frame.
        log_floor: power below which nothing is heard; the logarithm is taken of max(power, log_floor).
    Returns:
        (1 + n // hop_length, mels), float32.
    """
    padded = np.pad(waveform, len(window) // 2, mode="reflect")
    return log_mel_of_frames(padded, window, mel_filters, hop_length, log_floor)


def log_mel_of_frames(
    padded: np.ndarray, window: np.ndarray, mel_filters: np.ndarray, hop_length: int, log_floor: float
) -> np.ndarray:
    """As `log_mel_spectrogram`, of a waveform with its reflected ends already beside it."""
    n_fft = 2 * (len(mel_filters) - 1)
    frames = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::hop_length]  # (T, win_length), a view
    log_mel = np.empty((len(frames), mel_filters.shape[1]), np.float32)
    buffer = np.zeros((CHUNK, n_fft))  # its columns behind win_length stay zero
    for start in range(0, len(frames), CHUNK):
        part = frames[start : start + CHUNK]
        np.multiply(part, window, out=buffer[: len(part), : len(window)])
        spectrum = np.fft.rfft(buffer[: -(-len(part) // _ROWS) * _ROWS])
        power = spectrum.real**2 + spectrum.imag**2
        mel = power.reshape(-1, _ROWS, power.shape[1]) @ mel_filters
        log_mel[start : start + CHUNK] = mel.reshape(-1, mel.shape[2])[: len(part)]
    np.maximum(log_mel, log_floor, out=log_mel)
    return np.log(log_mel, out=log_mel)


def audio_windows(columns: int, config: Any, longest: int | None = None) -> list[tuple[int, int, int, int]]:
    """Windows in which a clip is encoded: one for a clip of trained length, overlapping ones for a longer clip.

    Args:
        columns: patch columns of the clip.
        config: a `SlapAudioConfig`, or anything with its fields: states the longest window (`max_audio_seconds`) and
            the overlap (`window_overlap_seconds`). `window_frames` comes first where it has one (towers that hear a
            fixed length).
        longest: columns of the longest window in place of the configuration's (none for `long_audio="whole"`).
    Returns:
        per window (start, end, start of the part it owns, its end) in patch columns. Windows begin at a fixed
        stride; the last one ends with the clip. Every column is owned once: overlaps are cut in the middle. All but
        the last two stay as they are when the clip goes on.
    """
    per_second = config.frames_per_second / config.patch_frames
    if longest is None and config.long_audio == "whole":
        longest = columns
    longest = longest or getattr(config, "window_frames", None) or int(config.max_audio_seconds * per_second)
    if columns <= longest:
        return [(0, columns, 0, columns)]
    stride = max(1, longest - int(config.window_overlap_seconds * per_second))
    starts = [*range(0, columns - longest, stride), columns - longest]
    cuts = [0, *((left + longest + right) // 2 for left, right in pairwise(starts)), columns]
    return [(start, start + longest, *cut) for start, cut in zip(starts, pairwise(cuts), strict=True)]
