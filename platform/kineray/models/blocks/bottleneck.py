"""The residual bottleneck of video ResNets."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GroupBatchNorm


class Bottleneck(nn.Module):
    """relu(shortcut + c(b(a(x)))): a temporal_kernel x 1 x 1, b 1 x 3 x 3 with the stride, c 1 x 1 x 1.

    The shortcut is a strided 1 x 1 x 1 convolution where channels or stride change, else the identity.
    The last batch norm of the branch starts at zero, so that a new block is the identity
    (Goyal et al., arXiv 1706.02677).
    """

    def __init__(
        self, in_channels: int, inner: int, out_channels: int, temporal_kernel: int, stride: int
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=(1, stride, stride), bias=False),
                GroupBatchNorm(out_channels),
            )
        self.conv_a = nn.Conv3d(
            in_channels, inner, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.norm_a = GroupBatchNorm(inner)
        self.conv_b = nn.Conv3d(
            inner, inner, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False
        )
        self.norm_b = GroupBatchNorm(inner)
        self.conv_c = nn.Conv3d(inner, out_channels, 1, bias=False)
        self.norm_c = GroupBatchNorm(out_channels)
        nn.init.zeros_(self.norm_c.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T, H/stride, W/stride]."""
        branch = F.relu(self.norm_a(self.conv_a(features_bcthw)), inplace=True)
        branch = F.relu(self.norm_b(self.conv_b(branch)), inplace=True)
        branch = self.norm_c(self.conv_c(branch))
        return F.relu(branch + self.shortcut(features_bcthw), inplace=True)
