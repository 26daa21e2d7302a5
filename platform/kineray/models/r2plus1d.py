"""R(2+1)D networks: Tran, Wang, Torresani, Ray, LeCun, Paluri, arXiv 1711.11248, section 3.5.

Every 3D convolution of a residual network is replaced by a 2D one in space, a batch norm, a ReLU, and a 1D
one in time. The number of channels between them is chosen so that both together have as many parameters as
the 3D convolution.

    stage   R(2+1)D-34                      R(2+1)D-152                                     stride
    stem    7x7x7 (110), 64                 7x7x7 (110), 64                                 1, 2
    res2    [3x3x3 64, 3x3x3 64] x 3        [1x1x1 64, 3x3x3 64, 1x1x1 256] x 3             1, 1
    res3    [3x3x3 128, 3x3x3 128] x 4      [1x1x1 128, 3x3x3 128, 1x1x1 512] x 8           2, 2
    res4    [3x3x3 256, 3x3x3 256] x 6      [1x1x1 256, 3x3x3 256, 1x1x1 1024] x 36         2, 2
    res5    [3x3x3 512, 3x3x3 512] x 3      [1x1x1 512, 3x3x3 512, 1x1x1 2048] x 3          2, 2
    head    average over frames and positions, linear

All kernels but 1x1x1 are factorised: t x d x d becomes 1 x d x d and t x 1 x 1, and the stride (frames,
space) is split in the same way. The stem of the published IG-65M weights factorises 3x7x7, with 45 channels
between. There is no pooling after the stem, in accordance with the multiply-adds that the authors publish.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.r2plus1d import R2Plus1DConfig
from kineray.models.blocks import DroppableBlock, GhostBatchNorm, factorised, initialise
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

EXPANSION = 4  # channels at the end of a bottleneck relative to its inside
# Frames of the stem's kernel, and channels between its two convolutions at the full width of 64. They are the
# same for flow as for RGB, so only the first convolution depends on the number of clip channels.
STEMS = {"7x7x7": (7, 110), "3x7x7": (3, 45)}


class R2Plus1D(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: R2Plus1DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.stem = _stem(in_channels, config)
        channels = config.width
        stages = []
        for index, blocks in enumerate(config.stage_blocks):
            inner = config.width * 2**index
            out_channels = inner * EXPANSION if config.bottleneck else inner
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for block in range(blocks):
                stride = 2 if index > 0 and block == 0 else 1
                make = _bottleneck if config.bottleneck else _basic
                branch = make(channels, inner, out_channels, stride)
                stage[f"block{block}"] = Residual(branch, channels, out_channels, stride)
                channels = out_channels
            stages.append(nn.Sequential(stage))
        self.res2, self.res3, self.res4, self.res5 = stages
        self.head = FeatureHead(channels, heads, config.dropout)
        initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}. Any size will do."""
        features_bcthw = self.stem(clips_bcthw)
        for stage in (self.res2, self.res3, self.res4, self.res5):
            features_bcthw = stage(features_bcthw)
        logits: dict[str, Tensor] = self.head(features_bcthw.mean((2, 3, 4)))
        return logits


class Residual(DroppableBlock):
    """relu(shortcut + branch); the shortcut is a 1 x 1 x 1 convolution if the shape changes."""

    def __init__(self, branch: nn.Module, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride=stride, bias=False),
                GhostBatchNorm(out_channels),
            )

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, T/stride, H/stride, W/stride]."""
        branch = self.drop(self.branch(features_bcthw))
        return F.relu(branch + self.shortcut(features_bcthw), inplace=True)


def _basic(in_channels: int, inner: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv_a=factorised(in_channels, inner, stride=(stride, stride)),
            norm_a=GhostBatchNorm(inner),
            relu_a=nn.ReLU(inplace=True),
            conv_b=factorised(inner, out_channels),
            norm_b=GhostBatchNorm(out_channels),
        )
    )


def _bottleneck(in_channels: int, inner: int, out_channels: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv_a=nn.Conv3d(in_channels, inner, 1, bias=False),
            norm_a=GhostBatchNorm(inner),
            relu_a=nn.ReLU(inplace=True),
            conv_b=factorised(inner, inner, stride=(stride, stride)),
            norm_b=GhostBatchNorm(inner),
            relu_b=nn.ReLU(inplace=True),
            conv_c=nn.Conv3d(inner, out_channels, 1, bias=False),
            norm_c=GhostBatchNorm(out_channels),
        )
    )


def _stem(in_channels: int, config: R2Plus1DConfig) -> nn.Sequential:
    """``in_channels`` -> ``width`` channels, all frames, half the height and width."""
    frames, middle_of_64 = STEMS[config.stem]
    width, middle = config.width, max(1, middle_of_64 * config.width // 64)
    spatial = nn.Conv3d(in_channels, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False)
    temporal = nn.Conv3d(middle, width, (frames, 1, 1), padding=(frames // 2, 0, 0), bias=False)
    return nn.Sequential(
        OrderedDict(
            spatial=spatial,
            norm_spatial=GhostBatchNorm(middle),
            relu_spatial=nn.ReLU(inplace=True),
            temporal=temporal,
            norm_temporal=GhostBatchNorm(width),
            relu_temporal=nn.ReLU(inplace=True),
        )
    )


_R34 = R2Plus1DConfig()
_R152 = R2Plus1DConfig(stage_blocks=(3, 8, 36, 3), bottleneck=True)


def _preset(config: R2Plus1DConfig) -> ModelPreset:
    # With 32 consecutive frames and the 3x7x7 stem a view costs what comparisons quote: 152 billion
    # multiply-adds for R(2+1)D-34, and 252 for R(2+1)D-152.
    return ModelPreset(config, frames=32, stride=1, side=112, source="arXiv 1711.11248", study="slowfast")


PRESETS = {"r2plus1d_34": _preset(_R34), "r2plus1d_152": _preset(_R152)}
