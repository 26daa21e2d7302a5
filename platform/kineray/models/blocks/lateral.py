"""The lateral connection from the Fast to the Slow pathway."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GhostBatchNorm


class Lateral(nn.Module):
    """Concatenates a time-strided convolution of the Fast features to the Slow ones.

    The "time-strided convolution" of SlowFast, section 3.4: kernel x 1 x 1, with temporal stride ``alpha``
    and ``ratio`` times the channels of the Fast pathway.
    """

    def __init__(self, fast_channels: int, ratio: int, kernel: int, alpha: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            fast_channels,
            fast_channels * ratio,
            (kernel, 1, 1),
            stride=(alpha, 1, 1),
            padding=(kernel // 2, 0, 0),
            bias=False,
        )
        self.norm = GhostBatchNorm(fast_channels * ratio)

    def forward(self, slow_bcthw: Tensor, fast_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] and [B, F, alpha T, H, W] -> [B, C + ratio F, T, H, W]."""
        lateral = F.relu(self.norm(self.conv(fast_bcthw)), inplace=True)
        return torch.cat([slow_bcthw, lateral], dim=1)
