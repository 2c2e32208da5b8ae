"""What varies from epoch to epoch in a clip: stripes of its log-mel, crop, loudness, speed, room, colour, company."""

import math
from collections.abc import Callable

import numpy as np
import soxr

FRAMES_PER_STRIPE_COUNT = 1000  # 10 s at 100 frames/s: the length for which the number of time stripes is given


def spec_augment(
    features: np.ndarray,
    rng: np.random.Generator,
    time_masks: int = 2,
    max_frames: int = 64,
    freq_masks: int = 2,
    max_bins: int = 8,
    value: float = 0.0,
) -> np.ndarray:
    """Log-mel with stripes of time and of frequency set to one value.

    Args:
        features: (T, M), normalised.
        rng: the clip's own generator.
        time_masks: time stripes per 10 s. A clip gets round(time_masks x T / 1000) of them, at least one; none if
            this is 0.
        max_frames: widths are uniform from 0 to this, but all time stripes together mask at most half of the clip.
        freq_masks: frequency stripes, whatever the length.
        max_bins: widths are uniform from 0 to this, but all frequency stripes together mask at most half of the bins.
        value: that of the stripes; 0 is the mean of normalised features.
    Returns:
        (T, M), a copy.
    Raises:
        ValueError: a negative number.
    Paper: SpecAugment is on; sizes not stated. Chosen as in HTS-AT and WavCaps, per 10 s; the rule for other lengths
        is ours.
    """
    if min(time_masks, max_frames, freq_masks, max_bins) < 0:
        raise ValueError(
            f"time_masks {time_masks}, max_frames {max_frames}, freq_masks {freq_masks} and max_bins {max_bins} "
            "must not be negative"
        )
    features = features.copy()
    frames, bins = features.shape
    stripes = max(1, round(time_masks * frames / FRAMES_PER_STRIPE_COUNT)) if time_masks else 0
    for start, stop in _stripes(rng, frames, stripes, max_frames):
        features[start:stop] = value
    for start, stop in _stripes(rng, bins, freq_masks, max_bins):
        features[:, start:stop] = value
    return features


def _stripes(rng: np.random.Generator, length: int, count: int, widest: int) -> list[tuple[int, int]]:
    if not count:
        return []
    widths = rng.integers(0, min(widest, length // (2 * count)), size=count, endpoint=True)
    starts = [int(rng.integers(0, length - width, endpoint=True)) for width in widths]
    return [(start, start + int(width)) for start, width in zip(starts, widths, strict=True)]


def random_crop(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """`samples` samples of (n,) from a place drawn uniformly; the whole where it is no longer than that."""
    if len(waveform) <= samples:
        return waveform
    start = int(rng.integers(0, len(waveform) - samples, endpoint=True))
    return waveform[start : start + samples]


def apply_gain(waveform: np.ndarray, gain_db: float) -> np.ndarray:
    """(n,) times 10^(gain_db / 20). Not clipped: a log-mel of samples beyond 1 is well defined."""
    return (waveform * 10.0 ** (gain_db / 20.0)).astype(np.float32)


def low_pass(waveform: np.ndarray, cutoff_hz: float, sampling_rate: int = 16_000) -> np.ndarray:
    """Sound without what lies above a frequency, as if it had been recorded at a lower rate.

    Args:
        waveform: (n,).
        cutoff_hz: kept in full up to here; from here to a tenth above, it falls to nothing along a cosine.
        sampling_rate: in Hz.
    Returns:
        (n,), float32.
    Raises:
        ValueError: a cutoff that is not positive.
    """
    if not cutoff_hz > 0:
        raise ValueError(f"cutoff_hz is {cutoff_hz}; expected a positive frequency")

    def gain(hz: np.ndarray) -> np.ndarray:
        slope = np.clip((hz - cutoff_hz) / (0.1 * cutoff_hz), 0.0, 1.0)  # 0 below the cutoff, 1 a tenth above it
        return 0.5 + 0.5 * np.cos(math.pi * slope)

    return _filtered(waveform, gain, sampling_rate)


def _filtered(waveform: np.ndarray, gain: Callable[[np.ndarray], np.ndarray], sampling_rate: int) -> np.ndarray:
    """The sound with every frequency times its gain, float32."""
    size = _quick_size(len(waveform))
    hz = np.fft.rfftfreq(size, 1.0 / sampling_rate).astype(np.float32)
    spectrum = np.fft.rfft(waveform.astype(np.float32, copy=False), size)
    return np.fft.irfft(spectrum * gain(hz).astype(np.float32), size)[: len(waveform)].astype(np.float32, copy=False)


def _quick_size(samples: int) -> int:
    """The smallest 2^k, 3 x 2^k or 5 x 2^k that is not less."""
    return min(factor << max(0, (-(-samples // factor) - 1).bit_length()) for factor in (1, 3, 5))


def mix(waveform: np.ndarray, other: np.ndarray, level_db: float, offset: int = 0) -> np.ndarray:
    """One sound over another.

    Args:
        waveform: (n,).
        other: (m,), m + offset <= n, so that nothing of it is cut off.
        level_db: RMS of the other above the waveform's, each over its own length. Where one is silent the other is
            added as it is.
        offset: the sample at which the other begins.
    Returns:
        (n,), float32.
    Raises:
        ValueError: the other does not fit.
    """
    if offset < 0 or offset + len(other) > len(waveform):
        raise ValueError(
            f"{len(other)} samples at offset {offset} do not fit into {len(waveform)}; "
            "put the shorter clip over the longer one"
        )
    mixed = waveform.astype(np.float32, copy=True)
    mixed[offset : offset + len(other)] += _at_level(waveform, other, level_db)
    return mixed


def append(waveform: np.ndarray, other: np.ndarray, level_db: float, gap: int = 0) -> np.ndarray:
    """One sound after the other: (n,), `gap` samples of silence, (m,); levels as in `mix`.

    Returns:
        (n + gap + m,), float32.
    """
    silence = np.zeros(gap, dtype=np.float32)
    return np.concatenate([waveform.astype(np.float32), silence, _at_level(waveform, other, level_db)])


def _at_level(waveform: np.ndarray, other: np.ndarray, level_db: float) -> np.ndarray:
    ours, its = _rms(waveform), _rms(other)
    return (10.0 ** (level_db / 20.0) * (ours / its if ours > 0 and its > 0 else 1.0) * other).astype(np.float32)


def _rms(sound: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(sound, dtype=np.float64))))


def change_speed(waveform: np.ndarray, factor: float) -> np.ndarray:
    """(n,) played `factor` times as fast, and so much higher: about (n / factor,), float32.

    Raises:
        ValueError: a factor that is not positive.
    """
    if not factor > 0:
        raise ValueError(f"factor is {factor}; expected a positive number, 2 is twice as fast and an octave higher")
    return soxr.resample(waveform.astype(np.float32, copy=False), factor, 1.0, quality="LQ")


def equalize(waveform: np.ndarray, gains_db: np.ndarray, sampling_rate: int = 16_000) -> np.ndarray:
    """Sound through another microphone: every frequency louder or softer.

    Args:
        waveform: (n,).
        gains_db: at frequencies evenly spaced on a logarithmic scale from 50 Hz to half of the rate, straight lines
            between them.
        sampling_rate: in Hz.
    Returns:
        (n,), float32.
    """
    points = np.linspace(math.log(50.0), math.log(sampling_rate / 2), len(gains_db))

    def gain(hz: np.ndarray) -> np.ndarray:
        return 10.0 ** (np.interp(np.log(np.maximum(hz, 1.0)), points, gains_db) / 20.0)

    return _filtered(waveform, gain, sampling_rate)


def reverberate(
    waveform: np.ndarray, seconds: float, level_db: float, rng: np.random.Generator, sampling_rate: int = 16_000
) -> np.ndarray:
    """Sound in a room: noise that dies away follows every moment of it.

    Args:
        waveform: (n,).
        seconds: until the room is 60 dB softer.
        level_db: of all of the room's energy beside that of the direct sound.
        rng: draws the noise.
        sampling_rate: in Hz.
    Returns:
        (n,), float32; what rings on after the clip is cut off.
    """
    length = max(1, min(int(seconds * sampling_rate), len(waveform)))
    room = rng.standard_normal(length, dtype=np.float32)
    room *= np.exp(np.arange(length, dtype=np.float32) * np.float32(-3.0 * math.log(10.0) / (seconds * sampling_rate)))
    room *= 10.0 ** (level_db / 20.0) / np.sqrt(np.sum(room**2))
    size = _quick_size(len(waveform) + length)
    echo = np.fft.irfft(np.fft.rfft(waveform, size) * np.fft.rfft(room, size), size)[: len(waveform)]
    return (waveform + echo).astype(np.float32)


def add_noise(waveform: np.ndarray, snr_db: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Sound with steady noise below it.

    Args:
        waveform: (n,).
        snr_db: RMS of the sound above that of the noise.
        slope: power of the noise falls as frequency to this: 0 is white, 1 pink, 2 brown.
        rng: draws the noise.
    Returns:
        (n,), float32.
    """
    noise = rng.standard_normal(len(waveform), dtype=np.float32)
    noise = _filtered(noise, lambda hz: np.maximum(hz, 20.0) ** (-slope / 2), 16_000)
    return mix(waveform, noise, -snr_db)
