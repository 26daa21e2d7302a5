"""Image networks applied to every frame, followed by a temporal subsystem.

    part        description                                              output
    backbone    an image network, without its classifier, on each frame  [B, T, C, H', W']
    temporal    turns the frames' features into features of the clip     [B, F]
    head        dropout and a linear classifier for each head            {head: [B, classes]}

With a frozen ``mobilenet_v2`` and 20 frames of 256 pixels (maps of 1280 x 8 x 8) these are the models of an
egocentric study on EPIC-KITCHENS. Trainable parameters, with 13 classes:

    preset                        temporal subsystem                                  parameters
    mobilenet_v2_lstm             LSTM 50, BN                                            266,963
    mobilenet_v2_conv_lstm        ConvLSTM 8 4x4/4, BN, max pool                         659,621
    mobilenet_v2_mid_conv_lstm    maps of 96 x 16 x 16: ConvLSTM 64 3x3, max pool, 1000  446,909
    mobilenet_v2_conv1d           9 convolutions in time                                  46,353
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config import TemporalSection
from kineray.config.models.frame import FrameConfig
from kineray.config.temporal.attention import AttentionConfig
from kineray.config.temporal.attentive_probe import AttentiveProbeConfig
from kineray.config.temporal.average import AverageConfig
from kineray.config.temporal.consensus import ConsensusConfig
from kineray.config.temporal.conv1d import Conv1dConfig
from kineray.config.temporal.conv_lstm import ConvLstmConfig
from kineray.config.temporal.gru import GruConfig
from kineray.config.temporal.lstm import LstmConfig
from kineray.config.temporal.residual import ResidualConfig
from kineray.config.temporal.timeception import TimeceptionConfig
from kineray.errors import ConfigError
from kineray.models.backbones import backbone_channels, build_backbone
from kineray.models.blocks import adopt, fold_frames
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset


def frozen_at_random_note(key: str) -> str:
    """The warning about a part of ``config.frozen_at_random()``, to follow the part's name and "has"."""
    return f"random weights and is frozen; model.{key}=torchvision:NAME starts it from image weights"


class FrameNet(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: number of clip channels (3 for RGB, 2 for optical flow, more for stacked flow).
    Raises ConfigError if the backbone has no layer ``config.cut``.
    """

    def __init__(self, config: FrameConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone, config.cut, in_channels)
        if config.frozen:
            self.backbone.requires_grad_(False).eval()
        else:
            adopt(self.backbone)
        self.temporal = config.temporal.build(backbone_channels(config.backbone, config.cut))
        head = ConsensusHead if self.temporal.keeps_frames else FeatureHead
        self.head = head(self.temporal.features, heads, config.dropout)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        Raises ConfigError for clips that the backbone or the temporal subsystem cannot take.
        """
        return self.classify(self.frame_maps(clips_bcthw))

    def frame_maps(self, clips_bcthw: Tensor) -> Tensor:
        """The backbone's part: feature maps of every frame, [B, T, C, H', W'].

        Those of a frozen backbone are float32 and contiguous, and each clip's are computed without the
        others: they can be read from a file in their place, equal to the bit.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        if not self.config.frozen:
            return self._pooled(fold_frames(self.backbone, clips_bcthw))
        with torch.no_grad():
            # The last bits of a convolution depend on how many images it is given.
            one_by_one = not torch.compiler.is_compiling() and len(clips_bcthw) > 1
            parts = torch.split(clips_bcthw, 1) if one_by_one else (clips_bcthw,)
            maps_btchw = torch.cat([self._frozen_maps(part) for part in parts])
            # Strides of sides of 1 are not changed by ``contiguous()``, and convolutions look at them.
            return maps_btchw.contiguous().view(-1).view(maps_btchw.shape)

    def _frozen_maps(self, clips_bcthw: Tensor) -> Tensor:
        maps_btchw = fold_frames(self.backbone, clips_bcthw)
        if maps_btchw.dtype in (torch.float16, torch.bfloat16):  # of autocast
            maps_btchw = maps_btchw.float()
        maps_btchw = self._pooled(maps_btchw)
        return maps_btchw.half().float() if self.config.feature_dtype == "float16" else maps_btchw

    def _pooled(self, maps_btchw: Tensor) -> Tensor:
        grid = self.config.grid
        if grid is None:
            return maps_btchw
        if grid > min(maps_btchw.shape[3:]):
            height, width = maps_btchw.shape[3:]
            raise ConfigError(
                f"larger than the feature maps, which have {height} x {width} positions",
                code="out_of_range",
                key="model.grid",
                value=grid,
                remedy="use model.grid=none, or larger frames",
            )
        pooled = F.adaptive_avg_pool2d(maps_btchw.flatten(0, 1), grid)
        return torch.unflatten(pooled, 0, (-1, maps_btchw.shape[1]))

    def classify(self, maps_btchw: Tensor) -> dict[str, Tensor]:
        """The rest of the network: feature maps of every frame -> {head: logits [B, classes]}."""
        device = maps_btchw.device.type
        # nn.LSTM does not do that on the CPU; there is no autocast of tensors without values.
        if not maps_btchw.is_meta and torch.is_autocast_enabled(device):
            maps_btchw = maps_btchw.to(torch.get_autocast_dtype(device))
        logits: dict[str, Tensor] = self.head(self.temporal(maps_btchw))
        return logits

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        return self


class ConsensusHead(FeatureHead):
    """Classifies every frame and averages the logits: TSN's average consensus (arXiv 1608.00859, eq. 1).

    Since the classifiers are linear, in evaluation a clip gets the logits of its average features. Training
    differs: here every frame has a separate dropout mask, whereas the average of the features has one mask.
    """

    def forward(self, features_btc: Tensor) -> dict[str, Tensor]:
        """[B, T, C] -> {head: logits [B, classes]}."""
        return {name: logits.mean(1) for name, logits in super().forward(features_btc).items()}


def _egocentric(temporal: TemporalSection, cut: str = "") -> ModelPreset:
    """20 frames of 256 pixels and a frozen MobileNetV2."""
    config = FrameConfig(
        init="torchvision:mobilenet_v2", backbone="mobilenet_v2", cut=cut, frozen=True, temporal=temporal
    )
    source = "arXiv 1801.04381 (MobileNetV2) and a report on EPIC-KITCHENS"
    return ModelPreset(config, frames=20, sampling="uniform", side=256, source=source, study="egocentric")


def _baseline(temporal: TemporalSection) -> ModelPreset:
    """Features of a frozen ResNet-50, and a linear classifier without dropout."""
    config = FrameConfig(
        init="torchvision:resnet50", backbone="resnet50", frozen=True, temporal=temporal, dropout=0.0
    )
    source = "arXiv 1512.03385 (ResNet) and a thesis on UCF-101"
    return ModelPreset(config, frames=16, sampling="uniform", side=224, source=source, study="st_resnet")


def _lecture(config: FrameConfig, source: str, frames: int = 16, side: int = 224) -> ModelPreset:
    return ModelPreset(config, frames=frames, sampling="segments", side=side, source=source, study="convnets")


PRESETS = {
    "mobilenet_v2_lstm": _egocentric(LstmConfig()),
    "mobilenet_v2_conv_lstm": _egocentric(ConvLstmConfig()),
    "mobilenet_v2_mid_conv_lstm": _egocentric(
        ConvLstmConfig(filters=64, kernel=3, stride=1, norm=False, dense=1000), cut="features.13"
    ),
    "mobilenet_v2_conv1d": _egocentric(Conv1dConfig()),
    "mobilenet_v2_average": _egocentric(AverageConfig()),
    "mobilenet_v2_residual": _egocentric(ResidualConfig()),
    "mobilenet_v2_attention": _egocentric(AttentionConfig()),
    "resnet50_average": _baseline(AverageConfig()),
    "resnet50_z_average": _baseline(AverageConfig(z_norm="per_dimension")),
    "resnet50_gru": _baseline(GruConfig()),
    "resnet50_tsn": _lecture(FrameConfig(temporal=ConsensusConfig()), "arXiv 1608.00859", frames=8),
    # For minutes of video: 128 timestamps and a frozen backbone.
    "resnet50_timeception": _lecture(
        FrameConfig(init="torchvision:resnet50", frozen=True, temporal=TimeceptionConfig()),
        "arXiv 1812.01289",
        frames=128,
    ),
    "resnet50_attentive_probe": _lecture(
        FrameConfig(init="torchvision:resnet50", frozen=True, temporal=AttentiveProbeConfig(), dropout=0.0),
        "arXiv 2404.08471",
    ),
    "vgg16_average": _lecture(FrameConfig(backbone="vgg16"), "arXiv 1409.1556"),
    "googlenet_average": _lecture(FrameConfig(backbone="googlenet"), "arXiv 1409.4842"),
    "inception_v3_average": _lecture(FrameConfig(backbone="inception_v3"), "arXiv 1512.00567", side=299),
    "resnext50_average": _lecture(FrameConfig(backbone="resnext50_32x4d"), "arXiv 1611.05431"),
    "densenet121_average": _lecture(FrameConfig(backbone="densenet121"), "arXiv 1608.06993"),
    "highway_average": _lecture(FrameConfig(backbone="highway"), "arXiv 1505.00387"),
}
