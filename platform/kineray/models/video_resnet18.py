"""The 18-layer video ResNets: Tran, Wang, Torresani, Ray, LeCun, Paluri, arXiv 1711.11248, Table 1.

torchvision's networks and weights (``torchvision.models.video``) with our head.

    stage   r3d           mc3           r2plus1d              channels   stride (frames, space)
    stem    3x7x7         3x7x7         1x7x7 (45), 3x1x1     64         1, 2
    layer1  [3x3x3] x 4   [3x3x3] x 4   [1x3x3, 3x1x1] x 4    64         1, 1
    layer2  [3x3x3] x 4   [1x3x3] x 4   [1x3x3, 3x1x1] x 4    128        2, 2 (mc3: 1, 2)
    layer3  [3x3x3] x 4   [1x3x3] x 4   [1x3x3, 3x1x1] x 4    256        2, 2 (mc3: 1, 2)
    layer4  [3x3x3] x 4   [1x3x3] x 4   [1x3x3, 3x1x1] x 4    512        2, 2 (mc3: 1, 2)
    head    average over frames and positions, linear
"""

from collections.abc import Mapping

from torch import Tensor, nn

from kineray.config.models.video_resnet18 import VideoResNet18Config
from kineray.models.blocks import adopt, replace_input_conv
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

FEATURES = 512


class VideoResNet18(nn.Module):
    """The whole network; ``backbone`` is torchvision's network, with its names, without the classifier.

    If ``in_channels`` is not 3, the first convolution is replaced.
    """

    def __init__(self, config: VideoResNet18Config, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        from torchvision.models import video

        make = {"r3d": video.r3d_18, "mc3": video.mc3_18, "r2plus1d": video.r2plus1d_18}[config.variant]
        network = make(weights=None, num_classes=1)
        network.fc = nn.Identity()
        self.backbone = adopt(replace_input_conv(network, in_channels))
        self.head = FeatureHead(FEATURES, heads, config.dropout)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}. Any size will do."""
        logits: dict[str, Tensor] = self.head(self.backbone(clips_bcthw))
        return logits


def _preset(variant: str) -> ModelPreset:
    # torchvision's weights were trained on clips of 16 frames at 15 frames per second.
    config = VideoResNet18Config.model_validate({"variant": variant})
    return ModelPreset(config, frames=16, stride=2, side=112, source="arXiv 1711.11248", study="slowfast")


PRESETS = {
    "r3d_18": _preset("r3d"),
    "mc3_18": _preset("mc3"),
    "r2plus1d_18": _preset("r2plus1d"),
}
