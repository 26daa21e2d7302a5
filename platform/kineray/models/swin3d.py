"""Video Swin: Liu, Ning, Cao, Wei, Zhang, Lin, Hu, arXiv 2106.13230, Table 1 and section 3.

torchvision's network and weights (``torchvision.models.video``) with our head.

    stage   layers                                      T     S     B     channels (T, S; B)
    patch   2x4x4 / 2x4x4, layer norm                                     96; 128
    1       attention in windows of 8x7x7, every        2     2     2     96; 128
            second shifted by half a window, MLP
    2       2x2 patches merged, the same                2     2     2     192; 256
    3                                                   6     18    18    384; 512
    4                                                   2     2     2     768; 1024
    head    layer norm, average over all positions, linear

Parameters with 400 classes: 28,158,070 (T), 49,816,678 (S) and 88,048,984 (B).
"""

from collections.abc import Mapping

from torch import Tensor, nn

from kineray.config.models.swin3d import Swin3DConfig
from kineray.models.blocks import adopt, replace_input_conv
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

WINDOW = (8, 7, 7)
PATCH = (2, 4, 4)


class Swin3D(nn.Module):
    """The whole network; ``backbone`` is torchvision's network, with its names, without the classifier.

    If ``in_channels`` is not 3, the patch embedding is replaced.
    """

    def __init__(self, config: Swin3DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        from torchvision.models.video.swin_transformer import SwinTransformer3d

        network = SwinTransformer3d(
            patch_size=list(PATCH),
            embed_dim=config.width,
            depths=list(config.stage_blocks),
            num_heads=[config.attention_heads * 2**stage for stage in range(4)],
            window_size=list(WINDOW),
            stochastic_depth_prob=0.0,
            num_classes=1,
        )
        network.head = nn.Identity()
        self.backbone = adopt(replace_input_conv(network, in_channels))
        self.head = FeatureHead(network.num_features, heads, config.dropout)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}. Any size will do."""
        logits: dict[str, Tensor] = self.head(self.backbone(clips_bcthw))
        return logits


def _preset(width: int, attention_heads: int, blocks: int) -> ModelPreset:
    config = Swin3DConfig(width=width, attention_heads=attention_heads, stage_blocks=(2, 2, blocks, 2))
    return ModelPreset(config, frames=32, stride=2, side=224, source="arXiv 2106.13230", study="convnets")


PRESETS = {
    "swin3d_t": _preset(96, 3, 6),
    "swin3d_s": _preset(96, 3, 18),
    "swin3d_b": _preset(128, 4, 18),
}
