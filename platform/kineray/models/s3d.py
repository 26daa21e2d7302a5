"""S3D and I3D: Inception-v1 inflated along time.

S3D: Xie, Sun, Huang, Tu, Murphy, arXiv 1712.04851, with separable convolutions, 1 x k x k then k x 1 x 1.
I3D: Carreira and Zisserman, arXiv 1705.07750, with k x k x k ones. Every convolution has batch norm and a
rectifier.

    layer                 size     channels of a module's branches        stride t, h, w   64 frames of 224
    conv1                 7        64                                     2, 2, 2          32 x 112
    max pool              1x3x3                                           1, 2, 2          32 x 56
    conv2                 1        64
    conv3                 3        192
    max pool              1x3x3                                           1, 2, 2          32 x 28
    inception3a, 3b                256, 480
    max pool              3                                               2, 2, 2          16 x 14
    inception4a to 4e              512, 512, 512, 528, 832
    max pool              2                                               2, 2, 2          8 x 7
    inception5a, 5b                832, 1024
    average pool          2x7x7                                           1, 1, 1          7 x 1
    dropout, linear at every position, mean

With the same weights S3D computes the same as torchvision's ``s3d``. Like torchvision's it differs from the
TensorFlow code of both papers in two things: strided layers pad equally on both sides, and batch norm has a
scale. With 400 classes S3D has 8,320,048 parameters and I3D has 12,697,264, of which 410,000 belong to the
classifier (12.29 M to the rest) and 7,280 are the scales.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.s3d import S3DConfig
from kineray.models.blocks import ConvNorm, SeparableConvNorm
from kineray.models.heads import Classifiers
from kineray.models.preset import ModelPreset

Conv = Callable[..., nn.Module]  # (in_channels, out_channels, size, stride=1) -> conv, batch norm, relu


class S3D(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: number of clip channels (3 for RGB, 2 for optical flow, more for stacked flow).
    """

    def __init__(self, config: S3DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        conv = partial(_conv, config)

        def scaled(channels: int) -> int:
            return channels * config.width // 64

        def inception(*channels: int) -> Inception:
            return Inception(conv, *(scaled(number) for number in channels))

        self.conv1 = conv(in_channels, scaled(64), 7, stride=2)
        self.conv2 = conv(scaled(64), scaled(64), 1)
        self.conv3 = conv(scaled(64), scaled(192), 3)
        self.inception3a = inception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = inception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = inception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = inception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = inception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = inception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = inception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = inception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = inception(832, 384, 192, 384, 48, 128, 128)
        self.head = PositionHead(scaled(1024), heads, config.dropout)
        _initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        Raises ConfigError for clips that are too short or too small.
        """
        logits: dict[str, Tensor] = self.head(self.features(clips_bcthw))
        return logits

    def features(self, clips_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, 16 ``width``, about T/8, H/32, W/32]."""
        self.config.check_clip(*clips_bcthw.shape[2:])
        x = self.conv1(clips_bcthw)
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
        x = self.conv3(self.conv2(x))
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), padding=(0, 1, 1))
        x = self.inception3b(self.inception3a(x))
        x = F.max_pool3d(x, 3, 2, padding=1)
        x = self.inception4c(self.inception4b(self.inception4a(x)))
        x = self.inception4e(self.inception4d(x))
        x = F.max_pool3d(x, 2, 2)
        features: Tensor = self.inception5b(self.inception5a(x))
        return features


class Inception(nn.Module):
    """Four branches, concatenated: 1; 1 and 3; 1 and 3; max pool and 1 (kernel sizes).

    GoogLeNet's third branch has a 5 x 5 convolution; in both video networks it is a 3 x 3 one.
    """

    def __init__(
        self,
        conv: Conv,
        in_channels: int,
        branch1: int,
        branch2_inner: int,
        branch2: int,
        branch3_inner: int,
        branch3: int,
        branch4: int,
    ) -> None:
        super().__init__()
        self.branch1 = conv(in_channels, branch1, 1)
        self.branch2 = nn.Sequential(
            conv(in_channels, branch2_inner, 1),
            conv(branch2_inner, branch2, 3),
        )
        self.branch3 = nn.Sequential(
            conv(in_channels, branch3_inner, 1),
            conv(branch3_inner, branch3, 3),
        )
        self.branch4 = nn.Sequential(
            nn.MaxPool3d(3, stride=1, padding=1),
            conv(in_channels, branch4, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, the sum of the branches, T, H, W]."""
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class PositionHead(Classifiers):
    """Pools over windows of 2 frames and 7 x 7 positions, classifies each window, and averages the logits.

    So clips may be longer, and frames larger, than in training. A map smaller than the window is one window.
    """

    def forward(self, features_bcthw: Tensor) -> dict[str, Tensor]:
        """[B, C, T, H, W] -> {head: logits [B, classes]}."""
        frames, height, width = features_bcthw.shape[2:]
        window = (min(2, frames), min(7, height), min(7, width))
        pooled_bcp = F.avg_pool3d(features_bcthw, window, stride=1).flatten(2)
        dropped_bpc = self.dropout(pooled_bcp.transpose(1, 2))
        return {name: linear(dropped_bpc).mean(1) for name, linear in self.linear.items()}


def torchvision_name(name: str) -> str | None:
    """The name in torchvision's ``googlenet`` of the 2D counterpart of a parameter or buffer of ``S3D``.

    None for those without a counterpart: convolutions over time, and the classifiers. The weight of a full
    convolution has a time dimension that its counterpart lacks.

    >>> torchvision_name("inception3a.branch2.1.spatial.norm.bias")
    'inception3a.branch2.1.bn.bias'
    """
    if ".temporal." in name or name.startswith("head."):
        return None
    return name.replace(".spatial.", ".").replace(".norm.", ".bn.")


def _conv(
    config: S3DConfig, in_channels: int, out_channels: int, size: int, stride: int = 1
) -> ConvNorm | SeparableConvNorm:
    kind = SeparableConvNorm if config.convolutions == "separable" and size > 1 else ConvNorm
    return kind(
        in_channels,
        out_channels,
        (size, size, size),
        stride=(stride, stride, stride),
        padding=(size // 2, size // 2, size // 2),
        eps=1e-3,
        momentum=config.norm_momentum,
    )


def _initialise(model: nn.Module) -> None:
    """As in the code of S3D: a normal distribution with standard deviation 0.01, truncated at 0.02."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# Both were trained on 64 consecutive frames at 25 a second, and tested on central crops of the same side.
PRESETS = {
    "s3d": ModelPreset(S3DConfig(), frames=64, stride=1, side=224, source="arXiv 1712.04851", study="s3d"),
    "i3d_inception": ModelPreset(
        S3DConfig(convolutions="full"),
        frames=64,
        stride=1,
        side=224,
        source="arXiv 1705.07750",
        study="convnets",
    ),
}
