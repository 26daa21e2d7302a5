"""A residual block (He et al., arXiv 1512.03385) of temporal convolutions over the frames' features."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, kaiming_init_, pool_space


class Residual(Temporal):
    """relu(x + BN(conv(relu(BN(conv(x)))))) along time, averaged over it.

    The last norm starts at zero, so a new block is the identity: training begins at the average of
    (non-negative) features.
    """

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__(channels)
        self.conv_a = nn.Conv1d(channels, width, kernel, padding=kernel // 2, bias=False)
        self.norm_a = GhostBatchNorm(width)
        self.conv_b = nn.Conv1d(width, channels, kernel, padding=kernel // 2, bias=False)
        self.norm_b = GhostBatchNorm(channels)
        kaiming_init_(self)
        nn.init.zeros_(self.norm_b.weight)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, C]."""
        features_bct = pool_space(maps_btchw).transpose(1, 2)
        branch = F.relu(self.norm_a(self.conv_a(features_bct)))
        branch = self.norm_b(self.conv_b(branch))
        return F.relu(features_bct + branch).mean(2)
