"""The factorised convolution of R(2+1)D."""

from collections import OrderedDict

from torch import nn

from kineray.models.blocks.batch_norm import GhostBatchNorm


def factorised(
    in_channels: int, out_channels: int, temporal_kernel: int = 3, *, stride: tuple[int, int] = (1, 1)
) -> nn.Sequential:
    """What replaces a 3D convolution: 1 x 3 x 3, batch norm, ReLU, ``temporal_kernel`` x 1 x 1.

    Tran et al., arXiv 1711.11248, section 3.5. ``stride``: in time and in space.
    """
    frames, space = stride
    middle = middle_channels(in_channels, out_channels, temporal_kernel)
    spatial = nn.Conv3d(
        in_channels, middle, (1, 3, 3), stride=(1, space, space), padding=(0, 1, 1), bias=False
    )
    temporal = nn.Conv3d(
        middle,
        out_channels,
        (temporal_kernel, 1, 1),
        stride=(frames, 1, 1),
        padding=(temporal_kernel // 2, 0, 0),
        bias=False,
    )
    return nn.Sequential(
        OrderedDict(
            spatial=spatial, norm=GhostBatchNorm(middle), relu=nn.ReLU(inplace=True), temporal=temporal
        )
    )


def middle_channels(in_channels: int, out_channels: int, temporal_kernel: int = 3) -> int:
    """Channels between both convolutions that keep the number of parameters of the 3D convolution.

    >>> middle_channels(64, 64), middle_channels(64, 128)
    (144, 230)
    """
    full = temporal_kernel * 9 * in_channels * out_channels
    return full // (9 * in_channels + temporal_kernel * out_channels)
