"""X3D: Feichtenhofer, arXiv 2004.04730, Table 1 and section 3.3, as PyTorchVideo has it.

    stage   layers                                          XS, S, M   L     stride (frames, space)
    stem    1x3x3 24, 5x1x1 depthwise                                        1, 2
    res2    [1x1x1 54, 3x3x3 depthwise, 1x1x1 24]           x 3        x 5   1, 2
    res3    [1x1x1 108, 3x3x3 depthwise, 1x1x1 48]          x 5        x 10  1, 2
    res4    [1x1x1 216, 3x3x3 depthwise, 1x1x1 96]          x 11       x 25  1, 2
    res5    [1x1x1 432, 3x3x3 depthwise, 1x1x1 192]         x 7        x 15  1, 2
    conv5   1x1x1 432                                                        1, 1
    pool    average over all frames and 5x5 (XS, S), 7x7 (M) or 10x10 (L) positions
    lin5    1x1x1 2048, without batch norm
    head    linear

Inside a block there are 2.25 times as many channels as at its end. The depthwise convolution of every second
block, from the first on, is followed by squeeze-and-excitation (arXiv 1709.01507), and that of every block by
Swish; elsewhere it is ReLU. With 400 classes, the paper's table has, without the parameters of batch norms:

    clip of training             parameters    multiply-adds
    XS     4 frames of 160       3.76 M         0.60 G
    S     13 frames of 160       3.76 M         1.96 G
    M     16 frames of 224       3.76 M         4.73 G
    L     16 frames of 312       6.08 M        18.37 G
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.x3d import X3DConfig
from kineray.models.blocks import ConvNorm, DroppableBlock, GhostBatchNorm, initialise
from kineray.models.heads import Head
from kineray.models.preset import ModelPreset

EXPANSION = 2.25  # channels inside a block relative to those at its end
SQUEEZE = 1 / 16  # channels inside squeeze-and-excitation relative to those around it
LIN5 = 2048


class X3D(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: X3DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=Stem(in_channels, config.width))
        channels = config.width
        for index, blocks in enumerate(config.stage_blocks):
            out_channels = config.width * 2**index
            parts[f"res{index + 2}"] = _stage(channels, out_channels, blocks)
            channels = out_channels
        self.backbone = nn.Sequential(parts)
        inner = int(EXPANSION * channels)
        self.conv5 = ConvNorm(channels, inner, (1, 1, 1))
        self.lin5 = nn.Conv3d(inner, LIN5, 1, bias=False)
        self.head = Head(LIN5, heads, 1, config.dropout)
        initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}. Any size will do."""
        features_bcthw = self.conv5(self.backbone(clips_bcthw))
        frames, height, width = features_bcthw.shape[2:]
        window = (frames, min(self.config.head_pool, height), min(self.config.head_pool, width))
        pooled_bcthw = F.relu(self.lin5(F.avg_pool3d(features_bcthw, window, stride=1)))
        logits: dict[str, Tensor] = self.head([pooled_bcthw])
        return logits


class Stem(nn.Module):
    """``in_channels`` -> ``width`` channels, all frames, half the height and width."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv3d(in_channels, width, (1, 3, 3), (1, 2, 2), (0, 1, 1), bias=False)
        self.temporal = nn.Conv3d(width, width, (5, 1, 1), padding=(2, 0, 0), groups=width, bias=False)
        self.norm = GhostBatchNorm(width)

    def forward(self, clips_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, width, T, H/2, W/2]."""
        return F.relu(self.norm(self.temporal(self.spatial(clips_bcthw))), inplace=True)


class X3DBlock(DroppableBlock):
    """relu(shortcut + c(swish(se(b(a(x)))))): a 1x1x1, b 3x3x3 depthwise with the stride, c 1x1x1.

    ``squeeze``: whether there is squeeze-and-excitation, se. The shortcut is a strided 1x1x1 convolution if
    the shape changes, with a batch norm if the number of channels does. The weight of the branch's last batch
    norm is initialised to zero, so a new block is the identity (Goyal et al., arXiv 1706.02677).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, squeeze: bool) -> None:
        super().__init__()
        inner = int(EXPANSION * out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)
        self.conv_a = nn.Conv3d(in_channels, inner, 1, bias=False)
        self.norm_a = GhostBatchNorm(inner)
        self.conv_b = nn.Conv3d(inner, inner, 3, (1, stride, stride), padding=1, groups=inner, bias=False)
        self.norm_b = GhostBatchNorm(inner)
        self.se: nn.Module = SqueezeExcitation(inner) if squeeze else nn.Identity()
        self.conv_c = nn.Conv3d(inner, out_channels, 1, bias=False)
        self.norm_c = GhostBatchNorm(out_channels)
        nn.init.zeros_(self.norm_c.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T, H/stride, W/stride]."""
        branch = F.relu(self.norm_a(self.conv_a(features_bcthw)), inplace=True)
        branch = F.silu(self.se(self.norm_b(self.conv_b(branch))))
        branch = self.norm_c(self.conv_c(branch))
        return F.relu(self.drop(branch).add_(self.shortcut(features_bcthw)), inplace=True)


class SqueezeExcitation(nn.Module):
    """Scales every channel of a clip by what all channels are on average (Hu et al., arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _multiple_of_8(SQUEEZE * channels)
        self.reduce = nn.Conv3d(channels, squeezed, 1)
        self.expand = nn.Conv3d(squeezed, channels, 1)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape."""
        mean = features_bcthw.mean((2, 3, 4), keepdim=True)
        scale: Tensor = self.expand(F.relu(self.reduce(mean))).sigmoid()
        return features_bcthw * scale


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is at least 8 and not less than 0.9 times ``channels``."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """Its first block halves height and width."""
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(blocks):
        stage[f"block{index}"] = X3DBlock(
            in_channels if index == 0 else out_channels,
            out_channels,
            stride=2 if index == 0 else 1,
            squeeze=index % 2 == 0,
        )
    return nn.Sequential(stage)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    layers: list[nn.Module] = [nn.Conv3d(in_channels, out_channels, 1, (1, stride, stride), bias=False)]
    if in_channels != out_channels:
        layers.append(GhostBatchNorm(out_channels))
    return nn.Sequential(*layers)


def _preset(config: X3DConfig, frames: int, stride: int, side: int) -> ModelPreset:
    source = "arXiv 2004.04730"
    return ModelPreset(config, frames=frames, stride=stride, side=side, source=source, study="slowfast")


_S = X3DConfig(head_pool=5)
_L = X3DConfig(stage_blocks=(5, 10, 25, 15), head_pool=10)

PRESETS = {
    "x3d_xs": _preset(_S, frames=4, stride=12, side=160),
    "x3d_s": _preset(_S, frames=13, stride=6, side=160),
    "x3d_m": _preset(X3DConfig(), frames=16, stride=5, side=256),
    "x3d_l": _preset(_L, frames=16, stride=5, side=312),
}
