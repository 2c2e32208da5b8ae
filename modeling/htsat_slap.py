"""HTSAT, the audio tower of CLAP 2023, on transformers' own implementation (that of LAION's CLAP)."""

from torch import Tensor
from transformers import ClapAudioConfig, ClapAudioModel

from .configuration_slap import SlapHtsatConfig
from .windowed_slap import SlapWindowedAudioModel

_SHARED = (
    "num_mel_bins", "spec_size", "patch_size", "hidden_size", "patch_embeds_hidden_size", "depths",
    "num_attention_heads", "mlp_ratio", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate",
    "layer_norm_eps",
)  # fmt: skip


class SlapHtsatModel(SlapWindowedAudioModel):
    """HTSAT: a hierarchy of Swin layers over the spectrogram of a window, folded into a square image.

    Paper: HTS-AT (2202.00874), section 2. The pooled feature is the mean over time and frequency before the
    token-semantic layer, which classifies and which CLAP does not use.
    """

    config_class = SlapHtsatConfig
    _no_split_modules = ["ClapAudioLayer"]

    def __init__(self, config: SlapHtsatConfig):
        super().__init__(config)
        shared = {name: getattr(config, name) for name in _SHARED}
        stride, heads = [config.patch_size] * 2, len(config.depths)
        self.htsat = ClapAudioModel(
            ClapAudioConfig(**shared, patch_stride=stride, num_hidden_layers=heads, window_size=config.attention_window)
        )
        self.gradient_checkpointing = False
        self.post_init()

    def encode(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        output = self.htsat(windows[:, None])
        # (W, D, rows, moments) to (W, moments x rows, D)
        return output.last_hidden_state.permute(0, 3, 2, 1).flatten(1, 2), output.pooler_output


__all__ = ["SlapHtsatModel"]
