"""Pseudo-3D residual networks (P3D): Qiu, Yao, Mei, arXiv 1711.10305, section 3.

A residual network whose 3x3 convolutions are split into a spatial S = 1x3x3 and a temporal T = 3x1x1
convolution, combined in one of three ways, which alternate from block to block:

    A   T(S(x))          B   S(x) + T(x)          C   S(x) + T(S(x))

    stage   50 layers (P3D-63)                   152 layers (P3D-199)    frames   side
    stem    1x7x7, 64                            same                    16       80
    pool    max 2x3x3                            same                    8        40
    res2    [1x1x1 64, S and T, 1x1x1 256] x 3   x 3                     8        40
    pool    max 2x1x1                            same                    4        40
    res3    [128, S and T, 512] x 4              x 8                     4        20
    pool    max 2x1x1                            same                    2        20
    res4    [256, S and T, 1024] x 6             x 36                    2        10
    pool    max 2x1x1                            same                    1        10
    res5    [512, 1x3x3, 2048] x 3               x 3                     1        5
    head    average over frames and positions, dropout, linear

Each T adds a layer to the ResNet-50 or -152. What the paper does not specify (pools, res5 without T, the
places of the ReLUs, the stride in the first 1x1x1 convolution) follows the authors' published Caffe network,
with two differences: that network halves the sum of C, which the batch norm after conv c undoes, and its
first pool is not padded.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.p3d import P3DConfig
from kineray.models.blocks import DroppableBlock, GhostBatchNorm, initialise
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

EXPANSION = 4  # channels at the end of a bottleneck relative to its inside


class P3D(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: P3DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.stem = _stem(in_channels, config.width)
        channels, number = config.width, 0
        stages = []
        for index, blocks in enumerate(config.stage_blocks):
            inner = config.width * 2**index
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(blocks):
                kind = config.blocks[number % len(config.blocks)] if index < 3 else "2D"
                stride = 2 if index > 0 and block == 0 else 1
                stage[f"block{block}"] = P3DBlock(kind, channels, inner, stride)
                channels, number = inner * EXPANSION, number + 1
            stages.append(nn.Sequential(stage))
        self.res2, self.res3, self.res4, self.res5 = stages
        self.head = FeatureHead(channels, heads, config.dropout)
        initialise(self, classifier_std=0.001)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, 16 n, H, W] -> {head: logits [B, classes]}.

        Raises ConfigError if the number of frames is not a multiple of 16.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        features_bcthw = self.stem(clips_bcthw)
        for stage in (self.res2, self.res3, self.res4):
            features_bcthw = F.max_pool3d(stage(features_bcthw), (2, 1, 1))
        features_bcthw = self.res5(features_bcthw)
        logits: dict[str, Tensor] = self.head(features_bcthw.mean((2, 3, 4)))
        return logits


class P3DBlock(DroppableBlock):
    """A bottleneck of ``kind`` A, B or C, or "2D" without the temporal convolution.

    ``stride``: spatial stride of the first convolution and the shortcut.
    """

    def __init__(self, kind: str, in_channels: int, inner: int, stride: int) -> None:
        super().__init__()
        self.kind = kind
        out_channels, strides = inner * EXPANSION, (1, stride, stride)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=strides, bias=False),
                GhostBatchNorm(out_channels),
            )
        self.conv_a = nn.Conv3d(in_channels, inner, 1, stride=strides, bias=False)
        self.norm_a = GhostBatchNorm(inner)
        self.conv_s = nn.Conv3d(inner, inner, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.norm_s = GhostBatchNorm(inner)
        if kind != "2D":
            self.conv_t = nn.Conv3d(inner, inner, (3, 1, 1), padding=(1, 0, 0), bias=False)
            self.norm_t = GhostBatchNorm(inner)
        self.conv_c = nn.Conv3d(inner, out_channels, 1, bias=False)
        self.norm_c = GhostBatchNorm(out_channels)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, 4 inner, T, H/stride, W/stride]."""
        branch = F.relu(self.norm_a(self.conv_a(features_bcthw)))
        branch = self._space_time(branch)
        branch = self.norm_c(self.conv_c(branch))
        return F.relu(self.drop(branch) + self.shortcut(features_bcthw), inplace=True)

    def _space_time(self, x: Tensor) -> Tensor:
        space = F.relu(self.norm_s(self.conv_s(x)))
        if self.kind == "2D":
            return space
        time: Tensor = self.norm_t(self.conv_t(x if self.kind == "B" else space))
        return F.relu(time if self.kind == "A" else space + time)


def _stem(in_channels: int, width: int) -> nn.Sequential:
    """``in_channels`` -> ``width`` channels, half the frames, a quarter of the height and width."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv3d(in_channels, width, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            norm=GhostBatchNorm(width),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((2, 3, 3), stride=2, padding=(0, 1, 1)),
        )
    )


def _preset(config: P3DConfig) -> ModelPreset:
    return ModelPreset(config, frames=16, stride=1, side=160, source="arXiv 1711.10305", study="slowfast")


PRESETS = {
    "p3d_63": _preset(P3DConfig()),
    "p3d_199": _preset(P3DConfig(stage_blocks=(3, 8, 36, 3))),
}
