"""S3D-v3: Inception-v3 (Szegedy et al., arXiv 1512.00567) with separable spatio-temporal convolutions.

The network of a course paper that compares it with S3D on a part of Kinetics. ``sep k`` is 1 x k x k followed
by k x 1 x 1, as in S3D (Xie et al., arXiv 1712.04851). The sizes are exactly those of the paper's table 1:

    layer  kind           channels   stride   padded   output for 64 x 224 x 224
    1      sep 3          32         2        yes      32 x 112 x 112
    2      sep 3          32                  yes      32 x 112 x 112
    3      sep 3          64                  yes      32 x 112 x 112
    4      max pool 3                2        yes      16 x 56 x 56
    5      1              80                           16 x 56 x 56
    6      sep 3          192                 yes      16 x 56 x 56
    7      max pool 3                2        yes      8 x 28 x 28
    8-10   module A       256, 288, 288       yes      8 x 28 x 28
    11     module B       768        2        no       3 x 13 x 13
    12-15  module C       768                 yes      3 x 13 x 13
           auxiliary classifier, in training
    16     module D       1280       2        no       1 x 6 x 6
    17-18  module E       2048                yes      1 x 6 x 6
           average, dropout, linear

Strides and padding are the same in time, height and width. The stem and its pools are padded, the modules
that reduce the map are not, so a clip needs at least 49 frames and 49 pixels. The source's modules of type 1
are layers 8-11, those of type 2 layers 12-16, and those of type 3 layers 17 and 18.

Choices made here, which the source leaves open:

* Widths and numbers of modules are those of torchvision's ``inception_v3``. The source gives 1 x 6 x 6 x 2048
  as the input of type 3; with these widths the input has 1280 channels, and the output 2048.
* Every k x k convolution becomes sep k. A chain of 1 x 7 and 7 x 1 becomes 1 x 1 x 7, 1 x 7 x 1, 7 x 1 x 1.
  In module E 1 x 3 and 3 x 1 stand side by side; each is followed by a separate 3 x 1 x 1. The pools inside
  the modules are as large in time as in space.
* Layers are counted as in this table, pools included: the source's 9 is half of 18. A 2D layer has
  convolutions and pools in space alone, but keeps its temporal stride, as in the code of S3D; if it is not
  padded, it reads the middle frame of every three. So the maps of all variants have the same sizes.
* Batch norm and the auxiliary classifier are those of Inception-v3, except that the map is pooled to 5 x 5
  before that classifier, which otherwise needs images of 299 pixels. Convolutions are initialised as in He
  et al., arXiv 1502.01852.

With 400 classes, and without the auxiliary classifier (2,865,296 parameters):

    temporal_from             parameters    10^9 multiply-adds
    0    S3D-v3               31,370,992    46.9
    9    top-heavy            31,088,752    32.6
    18   image network        22,605,168    28.7

The source says that S3D-v3 has twice as many parameters as GoogLeNet, and the top-heavy variant half as many
as S3D-v3. Here the factors are 5.2 (Inception-v3 alone has 3.8 times GoogLeNet's 6.0 M) and 0.99, because the
temporal convolutions of layers 1 to 9 are narrow. Leaving them out saves a third of the multiply-adds.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.s3d_v3 import S3DV3Config
from kineray.models.blocks import ConvNorm, SeparableConvNorm
from kineray.models.heads import AUXILIARY, FeatureHead
from kineray.models.preset import ModelPreset

_AUXILIARY_AFTER = 15
_TORCHVISION_LAYERS = {
    "1": "Conv2d_1a_3x3", "2": "Conv2d_2a_3x3", "3": "Conv2d_2b_3x3",
    "5": "Conv2d_3b_1x1", "6": "Conv2d_4a_3x3",
    "8": "Mixed_5b", "9": "Mixed_5c", "10": "Mixed_5d",
    "11": "Mixed_6a", "12": "Mixed_6b", "13": "Mixed_6c", "14": "Mixed_6d", "15": "Mixed_6e",
    "16": "Mixed_7a", "17": "Mixed_7b", "18": "Mixed_7c",
}  # fmt: skip


class S3DV3(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: number of clip channels (3 for RGB, 2 for optical flow, more for stacked flow).
    """

    def __init__(self, config: S3DV3Config, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        timed = [number > config.temporal_from for number in range(19)]  # whether layer 1 to 18 is temporal
        c = partial(_scaled, config.width)
        self.layers = nn.ModuleDict(
            {
                "1": _conv(in_channels, c(32), (3, 3), 3 if timed[1] else 1, stride=2),
                "2": _conv(c(32), c(32), (3, 3), 3 if timed[2] else 1),
                "3": _conv(c(32), c(64), (3, 3), 3 if timed[3] else 1),
                "4": _max_pool(timed[4]),
                "5": _conv(c(64), c(80), (1, 1)),
                "6": _conv(c(80), c(192), (3, 3), 3 if timed[6] else 1),
                "7": _max_pool(timed[7]),
                "8": ModuleA(c(192), c(32), config.width, timed[8]),
                "9": ModuleA(c(256), c(64), config.width, timed[9]),
                "10": ModuleA(c(288), c(64), config.width, timed[10]),
                "11": ModuleB(c(288), config.width, timed[11]),
                "12": ModuleC(c(768), c(128), config.width, timed[12]),
                "13": ModuleC(c(768), c(160), config.width, timed[13]),
                "14": ModuleC(c(768), c(160), config.width, timed[14]),
                "15": ModuleC(c(768), c(192), config.width, timed[15]),
                "16": ModuleD(c(768), config.width, timed[16]),
                "17": ModuleE(c(1280), config.width, timed[17]),
                "18": ModuleE(c(2048), config.width, timed[18]),
            }
        )
        self.auxiliary = Auxiliary(c(768), config, heads)
        self.head = FeatureHead(c(2048), heads, config.dropout)
        _initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        In training the logits of the auxiliary classifier are added, under ``AUXILIARY`` + head.
        Raises ConfigError for clips that are too short or too small.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        x = clips_bcthw
        auxiliary: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers.values(), start=1):
            x = layer(x)
            if number == _AUXILIARY_AFTER and self.training:
                auxiliary = self.auxiliary(x)
        return {**self.head(x.mean((2, 3, 4))), **auxiliary}


class ModuleA(nn.Module):
    """Branches of convolutions 1; 1, 5; 1, 3, 3; average pool, 1.

    [B, in_channels, T, H, W] -> [B, 224 + pool, T, H, W].
    """

    def __init__(self, in_channels: int, pool: int, width: int, timed: bool) -> None:
        super().__init__()
        c = partial(_scaled, width)
        three, five = (3, 5) if timed else (1, 1)
        self.pool = _average_pool(three)
        self.branch1x1 = _conv(in_channels, c(64), (1, 1))
        self.branch5x5_1 = _conv(in_channels, c(48), (1, 1))
        self.branch5x5_2 = _conv(c(48), c(64), (5, 5), five)
        self.branch3x3dbl_1 = _conv(in_channels, c(64), (1, 1))
        self.branch3x3dbl_2 = _conv(c(64), c(96), (3, 3), three)
        self.branch3x3dbl_3 = _conv(c(96), c(96), (3, 3), three)
        self.branch_pool = _conv(in_channels, pool, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        branch5x5 = self.branch5x5_2(self.branch5x5_1(x))
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branch_pool = self.branch_pool(self.pool(x))
        return torch.cat([self.branch1x1(x), branch5x5, branch3x3dbl, branch_pool], dim=1)


class ModuleB(nn.Module):
    """Branches of convolutions 3/2; 1, 3, 3/2; max pool/2 (/2: with stride 2).

    [B, in_channels, T, H, W] -> [B, 480 + in_channels, (T - 1) // 2, (H - 1) // 2, (W - 1) // 2].
    """

    def __init__(self, in_channels: int, width: int, timed: bool) -> None:
        super().__init__()
        c = partial(_scaled, width)
        self.timed = timed
        three = 3 if timed else 1
        self.pool = nn.MaxPool3d((three, 3, 3), stride=2)
        self.branch3x3 = _conv(in_channels, c(384), (3, 3), three, stride=2, padded=False)
        self.branch3x3dbl_1 = _conv(in_channels, c(64), (1, 1))
        self.branch3x3dbl_2 = _conv(c(64), c(96), (3, 3), three)
        self.branch3x3dbl_3 = _conv(c(96), c(96), (3, 3), three, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.timed else _middle_frames(x)
        branch3x3dbl = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), branch3x3dbl, self.pool(x)], dim=1)


class ModuleC(nn.Module):
    """Branches of convolutions 1; 1, 1x7, 7x1; 1, 7x1, 1x7, 7x1, 1x7; average pool, 1.

    ``inner``: channels inside the long branches.

    [B, in_channels, T, H, W] -> [B, 768, T, H, W].
    """

    def __init__(self, in_channels: int, inner: int, width: int, timed: bool) -> None:
        super().__init__()
        out = _scaled(width, 192)
        three, seven = (3, 7) if timed else (1, 1)
        self.pool = _average_pool(three)
        self.branch1x1 = _conv(in_channels, out, (1, 1))
        self.branch7x7_1 = _conv(in_channels, inner, (1, 1))
        self.branch7x7_2 = _conv(inner, inner, (1, 7))
        self.branch7x7_3 = _conv(inner, out, (7, 1), seven)
        self.branch7x7dbl_1 = _conv(in_channels, inner, (1, 1))
        self.branch7x7dbl_2 = _conv(inner, inner, (7, 1))
        self.branch7x7dbl_3 = _conv(inner, inner, (1, 7), seven)
        self.branch7x7dbl_4 = _conv(inner, inner, (7, 1))
        self.branch7x7dbl_5 = _conv(inner, out, (1, 7), seven)
        self.branch_pool = _conv(in_channels, out, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        branch7x7 = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        branch7x7dbl = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        branch7x7dbl = self.branch7x7dbl_5(self.branch7x7dbl_4(branch7x7dbl))
        branch_pool = self.branch_pool(self.pool(x))
        return torch.cat([self.branch1x1(x), branch7x7, branch7x7dbl, branch_pool], dim=1)


class ModuleD(nn.Module):
    """Branches of convolutions 1, 3/2; 1, 1x7, 7x1, 3/2; max pool/2 (/2: with stride 2).

    [B, in_channels, T, H, W] -> [B, 512 + in_channels, (T - 1) // 2, (H - 1) // 2, (W - 1) // 2].
    """

    def __init__(self, in_channels: int, width: int, timed: bool) -> None:
        super().__init__()
        c = partial(_scaled, width)
        self.timed = timed
        three, seven = (3, 7) if timed else (1, 1)
        self.pool = nn.MaxPool3d((three, 3, 3), stride=2)
        self.branch3x3_1 = _conv(in_channels, c(192), (1, 1))
        self.branch3x3_2 = _conv(c(192), c(320), (3, 3), three, stride=2, padded=False)
        self.branch7x7x3_1 = _conv(in_channels, c(192), (1, 1))
        self.branch7x7x3_2 = _conv(c(192), c(192), (1, 7))
        self.branch7x7x3_3 = _conv(c(192), c(192), (7, 1), seven)
        self.branch7x7x3_4 = _conv(c(192), c(192), (3, 3), three, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.timed else _middle_frames(x)
        branch3x3 = self.branch3x3_2(self.branch3x3_1(x))
        branch7x7x3 = self.branch7x7x3_2(self.branch7x7x3_1(x))
        branch7x7x3 = self.branch7x7x3_4(self.branch7x7x3_3(branch7x7x3))
        return torch.cat([branch3x3, branch7x7x3, self.pool(x)], dim=1)


class ModuleE(nn.Module):
    """Branches of convolutions 1; 1, (1x3 beside 3x1); 1, 3, (1x3 beside 3x1); average pool, 1.

    [B, in_channels, T, H, W] -> [B, 2048, T, H, W].
    """

    def __init__(self, in_channels: int, width: int, timed: bool) -> None:
        super().__init__()
        c = partial(_scaled, width)
        three = 3 if timed else 1
        self.pool = _average_pool(three)
        self.branch1x1 = _conv(in_channels, c(320), (1, 1))
        self.branch3x3_1 = _conv(in_channels, c(384), (1, 1))
        self.branch3x3_2a = _conv(c(384), c(384), (1, 3), three)
        self.branch3x3_2b = _conv(c(384), c(384), (3, 1), three)
        self.branch3x3dbl_1 = _conv(in_channels, c(448), (1, 1))
        self.branch3x3dbl_2 = _conv(c(448), c(384), (3, 3), three)
        self.branch3x3dbl_3a = _conv(c(384), c(384), (1, 3), three)
        self.branch3x3dbl_3b = _conv(c(384), c(384), (3, 1), three)
        self.branch_pool = _conv(in_channels, c(192), (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        branch3x3 = self.branch3x3_1(x)
        branch3x3 = [self.branch3x3_2a(branch3x3), self.branch3x3_2b(branch3x3)]
        branch3x3dbl = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        branch3x3dbl = [self.branch3x3dbl_3a(branch3x3dbl), self.branch3x3dbl_3b(branch3x3dbl)]
        branch_pool = self.branch_pool(self.pool(x))
        return torch.cat([self.branch1x1(x), *branch3x3, *branch3x3dbl, branch_pool], dim=1)


class Auxiliary(nn.Module):
    """The classifier after layer 15: pool to 5 x 5, conv 1 (128), conv 5 x 5 (768), average, linear.

    Its convolutions have batch norm; or they have biases, and there is dropout of 0.7 before the linear layer
    as in GoogLeNet (Szegedy et al., arXiv 1409.4842).
    """

    def __init__(self, in_channels: int, config: S3DV3Config, heads: Mapping[str, int]) -> None:
        super().__init__()
        inner, features = _scaled(config.width, 128), _scaled(config.width, 768)
        dropout = 0.0
        if config.auxiliary == "batch_norm":
            self.convs = nn.Sequential(
                _conv(in_channels, inner, (1, 1)),
                _conv(inner, features, (5, 5), padded=False),
            )
        else:
            dropout = 0.7
            self.convs = nn.Sequential(
                nn.Conv3d(in_channels, inner, 1),
                nn.ReLU(inplace=True),
                nn.Conv3d(inner, features, (1, 5, 5)),
                nn.ReLU(inplace=True),
            )
        self.head = FeatureHead(features, heads, dropout)

    def forward(self, features_bcthw: Tensor) -> dict[str, Tensor]:
        """[B, C, T, H, W] -> {``AUXILIARY`` + head: logits [B, classes]}."""
        pooled = F.adaptive_avg_pool3d(features_bcthw, (None, 5, 5))
        logits: dict[str, Tensor] = self.head(self.convs(pooled).mean((2, 3, 4)))
        return {AUXILIARY + name: values for name, values in logits.items()}


def torchvision_name(name: str) -> str | None:
    """The name in torchvision's ``inception_v3`` of the 2D counterpart of a parameter or buffer.

    None for those without a counterpart: convolutions over time, and the classifiers.

    >>> torchvision_name("layers.8.branch5x5_2.spatial.norm.bias")
    'Mixed_5b.branch5x5_2.bn.bias'
    """
    part, _, rest = name.partition(".")
    if part != "layers" or ".temporal." in rest:
        return None
    number, _, rest = rest.partition(".")
    within = f".{rest}".replace(".spatial.", ".").replace(".norm.", ".bn.")
    return _TORCHVISION_LAYERS[number] + within


def _scaled(width: int, channels: int) -> int:
    """The channels, in a network of this width, of a layer that has ``channels`` at width 32."""
    return channels * width // 32


def _conv(
    in_channels: int,
    out_channels: int,
    size: tuple[int, int],
    time: int = 1,
    *,
    stride: int = 1,
    padded: bool = True,
) -> ConvNorm | SeparableConvNorm:
    """A convolution of ``size`` in space, followed by one over ``time`` frames if that is more than 1."""
    height, width = size
    kind = SeparableConvNorm if time > 1 else ConvNorm
    return kind(
        in_channels,
        out_channels,
        (time, height, width),
        stride=(stride, stride, stride),
        padding=(time // 2, height // 2, width // 2) if padded else (0, 0, 0),
        eps=1e-3,
    )


def _max_pool(timed: bool) -> nn.MaxPool3d:
    """A max pool of size 3, over time too if ``timed``, that halves frames, height and width."""
    time = 3 if timed else 1
    return nn.MaxPool3d((time, 3, 3), stride=2, padding=(time // 2, 1, 1))


def _middle_frames(features_bcthw: Tensor) -> Tensor:
    """The frames in the middle of all windows of three: [B, C, T, H, W] -> [B, C, T - 2, H, W]."""
    return features_bcthw[:, :, 1:-1]


def _average_pool(time: int) -> nn.Module:
    """Means over ``time`` x 3 x 3 positions, zeros of the padding included, as in torchvision.

    The padding is a separate layer, because ``AvgPool3d`` refuses maps that are smaller than its window.
    """
    padding = (1, 1, 1, 1, time // 2, time // 2)
    return nn.Sequential(nn.ZeroPad3d(padding), nn.AvgPool3d((time, 3, 3), stride=1))


def _initialise(model: nn.Module) -> None:
    """He et al. (arXiv 1502.01852) for convolutions, normal(0, 0.01) for the classifiers."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


def _preset(config: S3DV3Config) -> ModelPreset:
    return ModelPreset(config, frames=64, stride=1, side=224, source="arXiv 1512.00567", study="s3d")


PRESETS = {
    "s3d_v3": _preset(S3DV3Config()),
    "s3d_v3_top_heavy": _preset(S3DV3Config(temporal_from=9)),
}
