"""CNN14, the audio tower of CLAP 2022."""

import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_slap import SlapCnn14Config
from .windowed_slap import SlapWindowedAudioModel


class SlapCnn14Block(nn.Module):
    """Two convolutions of 3 x 3, each with batch norm, then the mean over squares of `pool` x `pool`."""

    def __init__(self, in_channels: int, out_channels: int, pool: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.avg_pool2d(x, self.pool)


class SlapCnn14Model(SlapWindowedAudioModel):
    """CNN14: six blocks of convolutions over the spectrogram of a window.

    Paper: PANNs (1912.10211), table 1. The pooled feature is the sum of the maximum and the mean over time, through one
    layer.
    """

    config_class = SlapCnn14Config
    _no_split_modules = ["SlapCnn14Block"]

    def __init__(self, config: SlapCnn14Config):
        super().__init__(config)
        sizes = [1, *config.block_sizes]
        self.bn0 = nn.BatchNorm2d(config.num_mel_bins)
        self.blocks = nn.ModuleList(
            SlapCnn14Block(sizes[i], sizes[i + 1], pool=2 if i + 2 < len(sizes) else 1) for i in range(len(sizes) - 1)
        )
        self.fc1 = nn.Linear(sizes[-1], config.hidden_size)
        self.post_init()

    def moment_frames(self, moments: int) -> float:
        return 2.0 ** (len(self.blocks) - 1)  # frames behind the last whole moment are dropped

    def encode(self, windows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        dropout = self.config.block_dropout
        x = self.bn0(windows[:, None].transpose(1, 3)).transpose(1, 3)  # (W, 1, frames, M)
        for block in self.blocks:
            x = F.dropout(block(x), dropout, self.training)
        dense = x.mean(3)  # (W, D, n)
        pooled = F.dropout(dense.amax(2) + dense.mean(2), self.config.head_dropout, self.training)
        pooled = F.dropout(F.relu(self.fc1(pooled)), self.config.head_dropout, self.training)
        return dense.transpose(1, 2), pooled


__all__ = ["SlapCnn14Model"]
