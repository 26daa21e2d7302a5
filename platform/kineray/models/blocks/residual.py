"""The residual blocks of video ResNets."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GhostBatchNorm
from kineray.models.blocks.factorised import factorised
from kineray.models.blocks.stochastic_depth import DroppableBlock


class Bottleneck(DroppableBlock):
    """relu(shortcut + c(b(a(x)))): a temporal_kernel x 1 x 1, b 1 x 3 x 3 with the stride, c 1 x 1 x 1.

    It has ``inner`` channels inside and four times as many at the end. The shortcut is a strided 1 x 1 x 1
    convolution if the shape changes, otherwise the identity. The weight of the branch's last batch norm is
    initialised to zero, so a new block is the identity (Goyal et al., arXiv 1706.02677).
    """

    expansion = 4

    def __init__(self, in_channels: int, inner: int, temporal_kernel: int, stride: int) -> None:
        super().__init__()
        out_channels = inner * self.expansion
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.conv_a = nn.Conv3d(
            in_channels, inner, (temporal_kernel, 1, 1), padding=(temporal_kernel // 2, 0, 0), bias=False
        )
        self.norm_a = GhostBatchNorm(inner)
        self.conv_b = _conv3d(inner, inner, 1, stride)
        self.norm_b = GhostBatchNorm(inner)
        self.conv_c = nn.Conv3d(inner, out_channels, 1, bias=False)
        self.norm_c = GhostBatchNorm(out_channels)
        nn.init.zeros_(self.norm_c.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, 4 inner, T, H/stride, W/stride]."""
        branch = F.relu(self.norm_a(self.conv_a(features_bcthw)), inplace=True)
        branch = F.relu(self.norm_b(self.conv_b(branch)), inplace=True)
        branch = self.norm_c(self.conv_c(branch))
        return F.relu(self.drop(branch).add_(self.shortcut(features_bcthw)), inplace=True)


class _TwoConvolutions(DroppableBlock):
    """relu(shortcut + b(a(x))), ``inner`` channels inside and at the end; otherwise like ``Bottleneck``."""

    expansion = 1

    def __init__(
        self, conv_a: nn.Module, conv_b: nn.Module, in_channels: int, inner: int, stride: int
    ) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, inner, stride)
        self.conv_a = conv_a
        self.norm_a = GhostBatchNorm(inner)
        self.conv_b = conv_b
        self.norm_b = GhostBatchNorm(inner)
        nn.init.zeros_(self.norm_b.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, inner, T, H/stride, W/stride]."""
        branch = F.relu(self.norm_a(self.conv_a(features_bcthw)), inplace=True)
        branch = self.norm_b(self.conv_b(branch))
        return F.relu(self.drop(branch).add_(self.shortcut(features_bcthw)), inplace=True)


class BasicBlock(_TwoConvolutions):
    """relu(shortcut + b(a(x))): a temporal_kernel x 3 x 3 with the stride, b 1 x 3 x 3.

    The block of ResNet-18 and 34 (He et al., arXiv 1512.03385), inflated like the bottleneck of SlowFast:
    only the first convolution of a block is temporal. So a stage of n blocks sees as many frames as one of
    n bottlenecks, and ``temporal_kernel`` means the same in both.
    """

    def __init__(self, in_channels: int, inner: int, temporal_kernel: int, stride: int) -> None:
        conv_a = _conv3d(in_channels, inner, temporal_kernel, stride)
        super().__init__(conv_a, _conv3d(inner, inner, 1, 1), in_channels, inner, stride)


class R2Plus1dBlock(_TwoConvolutions):
    """The basic block of R(2+1)D: both convolutions are temporal, and factorised in space and time.

    Tran et al., arXiv 1711.11248, section 3.5. If ``temporal_kernel`` is 1, there is nothing to factorise:
    the convolutions are 1 x 3 x 3.
    """

    def __init__(self, in_channels: int, inner: int, temporal_kernel: int, stride: int) -> None:
        conv_a = _factorised(in_channels, inner, temporal_kernel, stride)
        conv_b = _factorised(inner, inner, temporal_kernel, 1)
        super().__init__(conv_a, conv_b, in_channels, inner, stride)


ResidualBlock = Bottleneck | BasicBlock | R2Plus1dBlock


def _conv3d(in_channels: int, out_channels: int, temporal_kernel: int, stride: int) -> nn.Conv3d:
    return nn.Conv3d(
        in_channels,
        out_channels,
        (temporal_kernel, 3, 3),
        stride=(1, stride, stride),
        padding=(temporal_kernel // 2, 1, 1),
        bias=False,
    )


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 1, stride=(1, stride, stride), bias=False),
        GhostBatchNorm(out_channels),
    )


def _factorised(in_channels: int, out_channels: int, temporal_kernel: int, stride: int) -> nn.Module:
    if temporal_kernel == 1:
        return _conv3d(in_channels, out_channels, 1, stride)
    return factorised(in_channels, out_channels, temporal_kernel, stride=(1, stride))
