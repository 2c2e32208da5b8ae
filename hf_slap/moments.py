"""A recording moment by moment: what each sounds like, in the space shared with text, and how loud it is.

A moment is a patch column of the encoder (0.16 s at the defaults). Recordings pass through window by window.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .embedding import BATCH_SECONDS, cut_windows, evaluating
from .modeling.configuration_slap import SlapAudioConfig
from .modeling.feature_extraction_slap import SlapFeatureExtractor
from .modeling.modeling_slap import SlapAudioModelOutput, SlapModel

LOCAL_SECONDS = 0.5  # of sound on either side that a moment is pooled over


class Moments(NamedTuple):
    """Some moments of a recording, one after the other.

    Args:
        embeds: (n, P) float32, unit norm.
        decibels: (n,) float32, mean power over mel bins; noise at full scale has about 0, a 16-bit file of silence
            the floor of the feature extractor (-80 at the defaults).
        frames: (frames of n patches, M) float32, their normalised log-mel.
    """

    embeds: np.ndarray
    decibels: np.ndarray
    frames: np.ndarray


def seconds_per_moment(model: SlapModel) -> float:
    """From one moment to the next.

    Raises:
        ValueError: an audio encoder whose pooled feature is not that of any part of its dense ones.
    """
    config = model.audio_model.config
    if not isinstance(config, SlapAudioConfig):
        raise ValueError(
            f"an audio encoder of kind {config.model_type!r} hears windows of {config.max_audio_seconds:g} s as a "
            f"whole and cannot say when; use a model with SLAP's own ({SlapAudioConfig.model_type!r})"
        )
    return config.patch_frames / config.frames_per_second


def embed_moments(hidden: Tensor, model: SlapModel) -> Tensor:
    """Each patch column with those `LOCAL_SECONDS` before and after it is pooled and projected as a clip is.

    Args:
        hidden: (N, D), dense features of one clip in time-major order.
        model: with `audio_model` and `audio_projection`.
    Returns:
        (T, P), unit norm.
    """
    rows = model.audio_model.config.patch_rows
    reach = round(LOCAL_SECONDS / seconds_per_moment(model))
    count = len(hidden) // rows
    column = torch.arange(count)[:, None] + torch.arange(-reach, reach + 1)  # (T, columns pooled)
    inside = ((column >= 0) & (column < count)).repeat_interleave(rows, 1).to(hidden.device)
    token = column.clamp(0, count - 1)[..., None] * rows + torch.arange(rows)
    token = token.flatten(1).to(hidden.device)  # (T, tokens pooled)
    pooled = model.audio_model.pooler(hidden, inside, lambda tokens: tokens[token])
    return model.embed_audio(SlapAudioModelOutput(pooler_output=pooled))


def stream_moments(
    blocks: Iterable[np.ndarray],
    model: SlapModel,
    extractor: SlapFeatureExtractor,
    batch_seconds: float | None = None,
) -> Iterator[Moments]:
    """The moments of a recording of any length, in bounded memory. What does not fill the last moment is dropped.

    Args:
        blocks: (n,) float32, the waveform as `SlapFeatureExtractor.stream` yields it.
        model: on its device, in its precision; not changed.
        extractor: of the model.
        batch_seconds: sound in one forward; default: 60 on a CPU, 1200 on a GPU.
    """
    config = model.audio_model.config
    batch_seconds = batch_seconds or BATCH_SECONDS["cpu" if model.device.type == "cpu" else "cuda"]
    most = batch_seconds * config.frames_per_second
    windows: list[tuple[np.ndarray, tuple[int, int, int, int]]] = []
    for window in cut_windows(extractor.log_mel_blocks(blocks), config):
        if windows and sum(len(frames) for frames, _ in windows) + len(window[0]) > most:
            yield from _encode(windows, model, extractor)
            windows = []
        windows.append(window)
    yield from _encode(windows, model, extractor)


def _encode(windows: list, model: SlapModel, extractor: SlapFeatureExtractor) -> Iterator[Moments]:
    config = model.audio_model.config
    frames = torch.from_numpy(np.concatenate([frames for frames, _ in windows])).to(model.device)
    with evaluating(model), torch.inference_mode():
        output = model.audio_model(frames, clip_frames=[len(frames) for frames, _ in windows])
        embeds = [
            embed_moments(hidden[mask], model).float().cpu().numpy()
            for hidden, mask in zip(output.last_hidden_state, output.attention_mask, strict=True)
        ]
    for moments, (frames, (start, _, own_start, own_end)) in zip(embeds, windows, strict=True):
        own = frames[(own_start - start) * config.patch_frames : (own_end - start) * config.patch_frames]
        power = np.exp(own * extractor.std + extractor.mean).reshape(own_end - own_start, -1).mean(1)
        yield Moments(moments[own_start - start : own_end - start], 10 * np.log10(power), own)
