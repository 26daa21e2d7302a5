"""Temporal convolutions over the frames' features, until one position is left.

layers                                               channels    frames
input                                                C           20
[conv 3, BN, conv 3, BN, LeakyReLU 0.01] x 4         10          16, 12, 8, 4
conv 4, BN, LeakyReLU 0.01                           100         1
"""

from torch import Tensor, nn

from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, kaiming_init_, pool_space


class Conv1d(Temporal):
    """The subsystem; it has no padding and takes clips of exactly 20 frames."""

    def __init__(self, channels: int) -> None:
        super().__init__(100)
        layers: list[nn.Module] = []
        for pair in range(4):
            layers += _convolution(10 if pair else channels, 10, 3)
            layers += _convolution(10, 10, 3)
            layers.append(nn.LeakyReLU(0.01))
        layers += _convolution(10, 100, 4)
        layers.append(nn.LeakyReLU(0.01))
        self.layers = nn.Sequential(*layers)
        kaiming_init_(self.layers)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, 20, C, H, W] -> [B, 100]."""
        features_bct: Tensor = self.layers(pool_space(maps_btchw).transpose(1, 2))
        return features_bct.flatten(1)


def _convolution(in_channels: int, channels: int, kernel: int) -> list[nn.Module]:
    return [nn.Conv1d(in_channels, channels, kernel), GhostBatchNorm(channels)]
