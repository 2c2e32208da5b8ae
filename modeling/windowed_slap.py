"""Audio encoders that hear a fixed length, made to serve clips of any length: the base of HTSAT and CNN14, and of
whatever encoder a user plugs in (README, "Other towers").

Letters: B clips, F mel frames, M mel bins, W windows, n tokens of a window, N tokens of the longest clip, D width.
"""

import torch
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from .configuration_slap import SlapWindowedAudioConfig
from .front_end_slap import audio_windows
from .modeling_slap import SlapAudioModel, SlapAudioModelOutput, SlapPreTrainedModel, frames_of_clips, pool_windows

INFERENCE_WINDOWS = 64  # encoded at once without gradients, which bounds the memory of long clips and large batches


class SlapWindowedAudioModel(SlapPreTrainedModel):
    """An audio encoder that hears windows of one length. A subclass says how one window is encoded.

    Clips are cut into overlapping windows and short ones filled up; dense features are stitched, and the pooled feature
    is the mean of the windows' weighted by the time that each one owns. The same clip gets the same features whatever
    its batch mates are, as long as `encode` computes each window by itself.

    A subclass sets `config_class` and defines `encode`. Registered with `AutoConfig` and `AutoModel`, its configuration
    is taken as `audio_config` of a `SlapConfig` by every class, pipeline and script of this package. It has no mask
    token, so it is not trained by masked prediction.
    """

    config_class = SlapWindowedAudioConfig
    base_model_prefix = "slap.audio_model"
    input_modalities = ("audio",)
    _keys_to_ignore_on_load_unexpected = SlapAudioModel._keys_to_ignore_on_load_unexpected
    _no_split_modules = []

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        kwargs.setdefault("key_mapping", {r"^(slap\.)?audio_model\.": ""})
        return super().from_pretrained(*args, **kwargs)

    def train(self, mode: bool = True):
        """As `Module.train`; what is frozen keeps its batch statistics, and a tower of which nothing is trained has no
        dropout."""
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def encode(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows, each by itself. To be defined by the subclass.

        Args:
            windows: (W, `config.window_frames`, M).
            lengths: (W,), frames of sound in each; frames behind them repeat the sound or are 0 (`short_audio`).
        Returns:
            dense features (W, n, D), evenly spread over the window, all `config.patch_rows` tokens of one moment
            before those of the next; and pooled features (W, D).
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(windows, lengths)")

    @can_return_tuple
    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        clip_frames: list[int] | None = None,
        patch_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> tuple | SlapAudioModelOutput:
        """Encode a batch of clips of any lengths; every clip gets what it would get alone.

        Args:
            input_features, input_features_mask, clip_frames: as for `SlapAudioModel.forward`.
            patch_mask, output_hidden_states, output_attentions: not served; anything but None or False is refused.
        Returns:
            SlapAudioModelOutput.
        Raises:
            ValueError: shapes that do not fit, padding before sound, or what is not served.
        """
        if patch_mask is not None:
            raise ValueError(
                f"{type(self).__name__} has no mask token and is not trained by masked prediction; set masked_weight=0"
            )
        if output_hidden_states or output_attentions:
            raise ValueError(f"{type(self).__name__} returns neither hidden states nor attention; leave them off")
        frames = frames_of_clips(input_features, input_features_mask, clip_frames, self.config)
        input_features = input_features.to(self.dtype)
        if clip_frames is None:
            clips = [clip[:length] for clip, length in zip(input_features, frames, strict=True)]
        else:
            clips = input_features.split(frames)
        places = [audio_windows(length, self.config) for length in frames]
        windows = [clip[start:end] for clip, of_clip in zip(clips, places, strict=True) for start, end, *_ in of_clip]
        clip_of_window = [clip for clip, of_clip in enumerate(places) for _ in of_clip]
        dense, pooled = self._encode_windows(windows)
        owned = [own_end - own_start for of_clip in places for *_, own_start, own_end in of_clip]
        if len(windows) > len(clips):
            pooled = pool_windows(pooled, owned, clip_of_window)
        return self._stitch(dense, pooled, places)

    def moment_frames(self, moments: int) -> float:
        """Frames from one moment to the next, of so many in a window."""
        return self.config.window_frames / moments

    def _encode_windows(self, windows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Windows (frames, M) of any lengths, at most `window_frames`, to (W, n, D) and (W, D)."""
        if len(windows) > INFERENCE_WINDOWS and not torch.is_grad_enabled():
            parts = [windows[i : i + INFERENCE_WINDOWS] for i in range(0, len(windows), INFERENCE_WINDOWS)]
            dense, pooled = zip(*map(self._encode_windows, parts), strict=True)
            return torch.cat(dense), torch.cat(pooled)
        lengths = torch.tensor([len(window) for window in windows], device=windows[0].device)
        return self.encode(torch.stack([self._fill(window) for window in windows]), lengths)

    def _fill(self, window: Tensor) -> Tensor:
        """(frames, M) to (window_frames, M)."""
        missing = self.config.window_frames - len(window)
        if missing <= 0:
            return window
        if self.config.short_audio == "pad":
            return torch.nn.functional.pad(window, (0, 0, 0, missing))
        return window.repeat(-(-self.config.window_frames // len(window)), 1)[: self.config.window_frames]

    def _stitch(self, dense: Tensor, pooled: Tensor, places: list) -> SlapAudioModelOutput:
        """Of the tokens of each window those in the middle of what it owns, one clip behind the other."""
        rows = self.config.patch_rows
        step = self.moment_frames(dense.shape[1] // rows)
        middle = (torch.arange(dense.shape[1], device=dense.device) // rows + 0.5) * step - 0.5
        tokens, seconds, window = [], [], 0
        for of_clip in places:
            kept, times = [], []
            for start, _, own_start, own_end in of_clip:
                inside = (middle + start >= own_start - 0.5) & (middle + start < own_end - 0.5)
                inside[:rows] |= own_end - own_start < step  # a clip shorter than a moment
                kept.append(dense[window][inside])
                times.append(middle[inside] + start)
                window += 1
            tokens.append(torch.cat(kept))
            seconds.append(torch.cat(times) / self.config.frames_per_second)
        counts = torch.tensor([len(of_clip) for of_clip in tokens], device=dense.device)
        hidden = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)  # (B, N, D)
        return SlapAudioModelOutput(
            last_hidden_state=hidden,
            pooler_output=pooled,
            attention_mask=torch.arange(hidden.shape[1], device=hidden.device) < counts[:, None],
            token_seconds=torch.nn.utils.rnn.pad_sequence(seconds, batch_first=True),
        )


__all__ = ["SlapWindowedAudioModel"]
