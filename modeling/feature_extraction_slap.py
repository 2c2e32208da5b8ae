"""The front end: sound in any form to normalised log-mel frames. No learned part, no state, no randomness."""

import random
from collections.abc import Iterable, Iterator
from inspect import signature
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedConfig, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from .audio_slap import load_waveform, stream_waveform
from .front_end_slap import CHUNK, log_mel_of_frames, log_mel_spectrogram

LONG_AUDIO = ("whole", "center")
_WINDOW_DEFAULTS = {"mel_rate": None, "window_seconds": None, "long_audio": "whole", "compat": False}

# Keys that transformers itself writes beside the parameters of a saved feature extractor.
_KEYS_OF_TRANSFORMERS = {"auto_map", "feature_extractor_type", "processor_class", "return_attention_mask"}


def log_mel_spectrogram_torch(
    waveform: torch.Tensor, window: torch.Tensor, mel_filters: torch.Tensor, hop_length: int, log_floor: float
) -> torch.Tensor:
    """As `log_mel_spectrogram`, on the device of `waveform`, and in the precision of `window` and `mel_filters`.

    In float64 the values are those of the reference to 1e-5, with autocast and TF32 too.
    """
    n_fft = 2 * (len(mel_filters) - 1)
    half = len(window) // 2
    padded = torch.nn.functional.pad(waveform.to(window.dtype)[None, None], (half, half), mode="reflect")[0, 0]
    frames = padded.unfold(0, len(window), hop_length)  # (T, win_length), a view
    log_mel = []
    for part in frames.split(8192):  # 80 s: bounds the memory that an hour of sound takes
        spectrum = torch.fft.rfft(part * window, n=n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        log_mel.append((power @ mel_filters).float())
    return torch.cat(log_mel).clamp_min(log_floor).log()


class SlapFeatureExtractor(SequenceFeatureExtractor):
    """Turns sound into the `input_features` of SLAP.

    Args:
        feature_size: mel bins.
        sampling_rate: Hz, of the waveforms the model hears.
        hop_length: samples from frame to frame (10 ms).
        win_length: samples under the Hann window (25 ms).
        n_fft: length of the transform, in samples; frames are filled up with zeros.
        mel_low_hz: lower edge of the lowest mel filter, Hz.
        mel_high_hz: upper edge of the highest mel filter, Hz.
        log_floor: mel power that counts as silence. Full scale noise has about 1, the rounding noise of 16-bit files
            4e-10. Not stated; 1e-8 chosen because digital silence and a 16-bit file of silence should look the same.
        mean: of the log-mel values of sound, over frames and bins, before normalisation.
        std: their standard deviation. Not stated; both measured on 5,850 clips (4.1 h) of sound effects, music and
            speech, all from free software packages, at the other defaults.
        patch_frames: frames of one patch of the model; the shortest clip fills one.
        padding_value: of frames added behind shorter clips of a batch, after normalisation: 0 is the mean, not
            silence. The model never reads them; `input_features_mask` is 0 there.
        mel_rate: Hz, the sampling rate that the mel filters are designed for; None is `sampling_rate`. CLAP 2023's were
            made for 32 kHz, and hear 44.1 kHz.
        window_seconds: a waveform shorter than this is repeated up to it, for towers that hear a fixed length.
        long_audio: of a waveform longer than `window_seconds`: "whole", or "center", its middle alone.
        compat: do as CLAP's code does: channels are laid end to end instead of averaged, and of a waveform longer than
            `window_seconds` a part drawn by Python's `random` is heard.
    Raises:
        ValueError: an unknown key, or sizes that do not fit each other.
    Paper: SLAP, section 2 (16 kHz, 25 ms Hann window, 10 ms hop, 64 mels, 16 x 16 patches). Not stated: the mel scale
        and range; Slaney's scale with area norm over 50 to 8,000 Hz chosen, as M2D has the range. (Neither it nor HTK's
        leaves a filter empty at this resolution of 31.25 Hz; HTK's lowest filters would share their bins in pairs.)
    """

    model_input_names = ["input_features", "input_features_mask"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        hop_length: int = 160,
        win_length: int = 400,
        n_fft: int = 512,
        mel_low_hz: float = 50.0,
        mel_high_hz: float = 8_000.0,
        log_floor: float = 1e-8,
        mean: float = -9.93,
        std: float = 5.72,
        patch_frames: int = 16,
        padding_value: float = 0.0,
        padding_side: str = "right",
        mel_rate: int | None = None,
        window_seconds: float | None = None,
        long_audio: str = "whole",
        compat: bool = False,
        **kwargs: Any,
    ):
        unknown = sorted(set(kwargs) - _KEYS_OF_TRANSFORMERS)
        if unknown:
            known = sorted(set(signature(type(self)).parameters) - {"kwargs"})
            raise ValueError(f"unknown keys {unknown} for {type(self).__name__}; known keys are {known}")
        if padding_side != "right":
            raise ValueError(f"padding_side={padding_side!r}; clips begin at the first frame, so it must be 'right'")
        if not 0 < hop_length <= win_length <= n_fft or n_fft % 2:
            raise ValueError(
                f"hop_length={hop_length} <= win_length={win_length} <= n_fft={n_fft} must hold, and n_fft be even"
            )
        if not 0 <= mel_low_hz < mel_high_hz <= (mel_rate or sampling_rate) / 2:
            raise ValueError(
                f"mel_low_hz={mel_low_hz} and mel_high_hz={mel_high_hz} must lie in order between 0 and half of "
                + (f"mel_rate={mel_rate}" if mel_rate else f"sampling_rate={sampling_rate}")
            )
        if long_audio not in LONG_AUDIO:
            raise ValueError(f"long_audio={long_audio!r}; accepted are {LONG_AUDIO}")
        if window_seconds is None and (compat or long_audio != "whole"):
            raise ValueError(f"compat={compat} and long_audio={long_audio!r} need window_seconds, a length to cut to")
        if not (log_floor > 0 and std > 0):
            raise ValueError(f"log_floor={log_floor} and std={std} must be positive")
        kwargs["return_attention_mask"] = False  # the name belongs to the text side; ours is input_features_mask
        super().__init__(feature_size, sampling_rate, padding_value, padding_side=padding_side, **kwargs)
        self.hop_length = hop_length
        self.win_length = win_length
        self.n_fft = n_fft
        self.mel_low_hz = mel_low_hz
        self.mel_high_hz = mel_high_hz
        self.log_floor = log_floor
        self.mean = mean
        self.std = std
        self.patch_frames = patch_frames
        self.mel_rate = mel_rate
        self.window_seconds = window_seconds
        self.long_audio = long_audio
        self.compat = compat
        self.window = np.hanning(win_length + 1)[:-1]  # periodic
        self.mel_filters = mel_filter_bank(
            n_fft // 2 + 1, feature_size, mel_low_hz, mel_high_hz, mel_rate or sampling_rate, "slaney", "slaney"
        )  # (n_fft // 2 + 1, feature_size)

    @classmethod
    def for_audio_config(cls, config: PreTrainedConfig) -> "SlapFeatureExtractor":
        """The feature extractor that an audio encoder of this configuration is trained with."""
        front_end = getattr(config, "front_end", None) or {}
        return cls(**{"feature_size": config.num_mel_bins, "patch_frames": config.patch_frames, **front_end})

    @property
    def window_samples(self) -> int:
        """Samples that shorter waveforms are filled up to; 0 where they are left as they are."""
        return int((self.window_seconds or 0) * self.sampling_rate)

    @property
    def _cuts(self) -> bool:
        """Whether waveforms longer than `window_seconds` are cut."""
        return self.compat or self.long_audio == "center"

    @property
    def min_samples(self) -> int:
        """Samples of the shortest clip that fills one patch: 2400, or 0.15 s, at the defaults."""
        return max((self.patch_frames - 1) * self.hop_length, self.win_length // 2 + 1)

    def num_frames(self, num_samples: int) -> int:
        """Log-mel frames of a waveform of `num_samples` samples."""
        if num_samples < self.window_samples or self._cuts:
            num_samples = self.window_samples
        return 1 + num_samples // self.hop_length

    def load(
        self, item: Any, sampling_rate: int | None = None, resample: bool = False, name: str | None = None
    ) -> np.ndarray:
        """One clip in any form as the waveform the model hears: (n,) float32, mono, at `self.sampling_rate`.

        Args, Raises: see `load_waveform` in `audio_slap.py`. A clip shorter than `min_samples` is an error.
        """
        rates = (self.sampling_rate, sampling_rate, resample)
        return load_waveform(item, *rates, name, self.min_samples, end_to_end=self.compat)

    def stream(
        self,
        item: Any,
        sampling_rate: int | None = None,
        resample: bool = False,
        name: str | None = None,
        block_seconds: float = 30.0,
    ) -> Iterator[np.ndarray]:
        """The waveform of `load`, to the last bit, in blocks (n,): a file of hours is never whole in memory.

        Args, Raises: see `stream_waveform` in `audio_slap.py`. Errors are raised on the way, the last at the end.
        """
        if self.compat:
            return iter([self.load(item, sampling_rate, resample, name)])
        rates = (self.sampling_rate, sampling_rate, resample)
        return stream_waveform(item, *rates, name, self.min_samples, block_seconds)

    def log_mel(self, waveform: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """The normalised log-mel spectrogram of one waveform.

        Args:
            waveform: (n,) floating point at `self.sampling_rate`, n >= `min_samples`, as `load` returns it. An array
                is computed by numpy; a tensor on its own device, to the same values. (Apple's GPUs have no float64;
                there, quiet bins beside loud ones differ by up to 2e-2.)
        Returns:
            (1 + n // hop_length, feature_size), float32, of the kind that came.
        Raises:
            ValueError: not one-dimensional, or too short.
        """
        if waveform.ndim != 1 or len(waveform) < self.min_samples:
            raise ValueError(
                f"expected a waveform (n,) of at least {self.min_samples} samples at {self.sampling_rate} Hz, got "
                f"shape {tuple(waveform.shape)}; `load` reads and checks clips of any form"
            )
        waveform = self._to_window(waveform)
        if isinstance(waveform, torch.Tensor):
            dtype = torch.float32 if waveform.device.type == "mps" else torch.float64
            window = torch.from_numpy(self.window).to(waveform.device, dtype)
            mel_filters = torch.from_numpy(self.mel_filters).to(waveform.device, dtype)
            log_mel = log_mel_spectrogram_torch(waveform, window, mel_filters, self.hop_length, self.log_floor)
        else:
            log_mel = log_mel_spectrogram(waveform, self.window, self.mel_filters, self.hop_length, self.log_floor)
        return self._normalize(log_mel)

    def log_mel_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The normalised log-mel spectrogram of one waveform that comes in blocks.

        Args:
            blocks: (n,) float32 each, of any lengths, as `stream` yields them; together at least `min_samples`.
        Yields:
            (frames, feature_size), float32; one after another they are `log_mel` of the whole, to the last bit.
        Raises:
            ValueError: too short altogether.
        """
        if self.window_seconds:
            blocks = self._blocks_to_window(blocks)
        settings = (self.window, self.mel_filters, self.hop_length, self.log_floor)
        half = self.win_length // 2
        pending = np.zeros(0, np.float32)  # the reflected start, and all that a frame to come still needs
        tail = np.zeros(0, np.float32)  # the last half + 1 samples, to reflect
        length = 0
        for block in blocks:
            begun = length > half
            length += len(block)
            tail = np.concatenate([tail, block[-half - 1 :]])[-half - 1 :]
            pending = np.concatenate([pending, block])
            if not begun and length > half:
                pending = np.concatenate([pending[half:0:-1], pending])
            ready = (len(pending) - self.win_length) // self.hop_length + 1
            ready -= ready % CHUNK  # so that every chunk holds the frames that it holds in the whole
            if length > half and ready > 0:
                used = pending[: (ready - 1) * self.hop_length + self.win_length]
                yield self._normalize(log_mel_of_frames(used, *settings))
                pending = pending[ready * self.hop_length :]
        if length < self.min_samples:
            raise ValueError(f"blocks of {length} samples altogether; at least {self.min_samples} are needed")
        pending = np.concatenate([pending, tail[-2::-1]])
        if len(pending) >= self.win_length:
            yield self._normalize(log_mel_of_frames(pending, *settings))

    def _to_window(self, waveform: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """A waveform shorter than `window_seconds` repeated, a longer one cut where that is asked for."""
        length, wanted = len(waveform), self.window_samples
        if length < wanted:
            times = -(-wanted // length)
            repeated = waveform.repeat(times) if isinstance(waveform, torch.Tensor) else np.tile(waveform, times)
            return repeated[:wanted]
        if length == wanted or not self._cuts:
            return waveform
        start = random.randrange(length - wanted) if self.compat else (length - wanted) // 2
        return waveform[start : start + wanted]

    def _blocks_to_window(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """As `_to_window`, of a waveform that comes in blocks; a long one is kept in memory only to be cut."""
        blocks, kept, length = iter(blocks), [], 0
        for block in blocks:
            kept.append(block)
            length += len(block)
            if length >= self.window_samples and not self._cuts:
                break
        if kept:
            yield self._to_window(np.concatenate(kept))
        yield from blocks

    def _normalize(self, log_mel: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """In place."""
        log_mel -= self.mean
        log_mel /= self.std
        return log_mel

    def __call__(
        self,
        audio: Any,
        sampling_rate: int | None = None,
        resample: bool = False,
        padding: bool | str = True,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Features of one clip or a batch.

        Args:
            audio: one clip in any form that `load` reads, or a list of clips, which may be of mixed forms. A
                two-dimensional array is one clip of several channels; a list is a batch.
            sampling_rate: Hz, of the arrays that come without their own.
            resample: resample arrays at another rate; otherwise they are an error.
            padding: True (or "longest") fills up to the longest clip; False leaves each clip its length.
            return_tensors: "np", "pt" or None. None gives numpy arrays, and lists of them without padding.
        Returns:
            input_features (B, T, feature_size), float32, and input_features_mask (B, T), int64, 1 is sound.
        Raises:
            AudioError: see `load`; the message says which clip of the batch.
            ValueError: an empty batch, or clips of unequal length as tensors without padding.
        """
        if padding not in (True, "longest", False, "do_not_pad", None):
            raise ValueError(f"padding={padding!r}; accepted are True, which fills up to the longest clip, and False")
        clips = _as_batch(audio)
        features = [
            self.log_mel(self.load(clip, sampling_rate, resample, name=f"audio[{index}]"))
            for index, clip in enumerate(clips)
        ]
        lengths = [len(frames) for frames in features]
        if padding not in (True, "longest"):
            if return_tensors is None:
                masks = [np.ones(length, np.int64) for length in lengths]
                return BatchFeature({"input_features": features, "input_features_mask": masks})
            if len(set(lengths)) > 1:
                raise ValueError(
                    f"clips of {sorted(set(lengths))} frames do not stack into one tensor; pass padding=True, or "
                    "return_tensors=None for a list"
                )
        batch = np.full((len(features), max(lengths), self.feature_size), self.padding_value, np.float32)
        mask = np.zeros(batch.shape[:2], np.int64)
        for row, frames in enumerate(features):
            batch[row, : len(frames)] = frames
            mask[row, : len(frames)] = 1
        return BatchFeature({"input_features": batch, "input_features_mask": mask}, tensor_type=return_tensors)

    def fetch_audio(self, audio: Any, sampling_rate: int | None = None) -> Any:
        """Clips that carry their rate (files, bytes, decoders, dictionaries) as waveforms; arrays stay as they are.

        transformers calls it before `__call__`. `sampling_rate` may only be the model's.
        """
        if sampling_rate not in (None, self.sampling_rate):
            raise ValueError(f"the model hears {self.sampling_rate} Hz, so audio is not fetched at {sampling_rate} Hz")
        if isinstance(audio, list | tuple) and not _is_numbers(audio):
            return [self.fetch_audio(item) for item in audio]
        is_array = hasattr(audio, "__array__") or _is_numbers(audio)
        return audio if is_array else self.load(audio)

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', which overlooks keywords that the file does not name."""
        return super().from_dict({**_WINDOW_DEFAULTS, **feature_extractor_dict}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The parameters, without the arrays computed from them."""
        output = super().to_dict()
        for computed in ("mel_filters", "window"):
            output.pop(computed, None)
        for name, default in _WINDOW_DEFAULTS.items():  # files of models without a window do not name them
            if output.get(name) == default:
                output.pop(name, None)
        return output


def _is_numbers(audio: Any) -> bool:
    """True for a list of numbers, which is one clip and not a batch."""
    return isinstance(audio, list | tuple) and len(audio) > 0 and isinstance(audio[0], int | float | np.number)


def _as_batch(audio: Any) -> list:
    """A list of clips from one clip or several."""
    if not isinstance(audio, list | tuple) or _is_numbers(audio):
        return [audio]
    if not audio:
        raise ValueError("audio is an empty list; pass at least one clip")
    return list(audio)
