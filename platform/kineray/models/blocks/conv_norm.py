"""Convolution, batch norm and ReLU; either full, or separated into space and time."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GhostBatchNorm

Triple = tuple[int, int, int]  # along time, height, width


class ConvNorm(nn.Module):
    """relu(norm(conv(x))), the convolution without bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        padding: Triple = (0, 0, 0),
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.norm = GhostBatchNorm(out_channels, eps, momentum)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T', H', W']."""
        return F.relu(self.norm(self.conv(features_bcthw)), inplace=True)


class SeparableConvNorm(nn.Module):
    """A ``ConvNorm`` over height and width, 1 x k x l, then one over time, t x 1 x 1.

    The separable convolution of S3D (Xie et al., arXiv 1712.04851, section 4.3): both halves have batch
    norm, a ReLU and ``out_channels`` channels. The arguments are those of the full convolution that it
    replaces.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Triple,
        *,
        stride: Triple = (1, 1, 1),
        padding: Triple = (0, 0, 0),
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.spatial = ConvNorm(
            in_channels,
            out_channels,
            (1, *kernel[1:]),
            stride=(1, *stride[1:]),
            padding=(0, *padding[1:]),
            eps=eps,
            momentum=momentum,
        )
        self.temporal = ConvNorm(
            out_channels,
            out_channels,
            (kernel[0], 1, 1),
            stride=(stride[0], 1, 1),
            padding=(padding[0], 0, 0),
            eps=eps,
            momentum=momentum,
        )

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T', H', W']."""
        features: Tensor = self.temporal(self.spatial(features_bcthw))
        return features
