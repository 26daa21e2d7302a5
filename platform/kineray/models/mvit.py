"""Multiscale vision transformers: Fan et al., arXiv 2104.11227, Table 2; Li et al., arXiv 2112.01526.

torchvision's networks and weights (``torchvision.models.video``) with our head.

    stage   layers                                                blocks   channels   heads   positions
    patch   3x7x7 / 2x4x4                                                  96                 8 x 56 x 56
    1       attention, keys and values pooled by 1x8x8; MLP       1        96         1       8 x 56 x 56
    2       queries pooled by 1x2x2; keys and values by 1x4x4     2        192        2       8 x 28 x 28
    3       queries pooled by 1x2x2; keys and values by 1x2x2     11       384        4       8 x 14 x 14
    4       queries pooled by 1x2x2                               2        768        8       8 x 7 x 7
    head    layer norm of the class token, linear

Version 1 adds learned positions to the patches and doubles the channels in the last MLP of a stage; version 2
has relative positions, adds the pooled queries to what attention gives, and doubles the channels in the first
attention of a stage. Parameters with 400 classes: 36,610,672 (v1 B) and 34,537,744 (v2 S).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kineray.config.models.mvit import MViTConfig
from kineray.models.blocks import adopt, replace_input_conv
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

_KERNEL = [3, 3, 3]


class MViT(nn.Module):
    """The whole network; ``backbone`` is torchvision's network, with its names, without the classifier.

    If ``in_channels`` is not 3, the patch embedding is replaced.
    """

    def __init__(self, config: MViTConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        from torchvision.models.video import mvit

        is_v2 = config.version == "v2"
        network = mvit.MViT(
            spatial_size=(config.side, config.side),
            temporal_size=config.frames,
            block_setting=[mvit.MSBlockConfig(**block) for block in _blocks(config)],
            residual_pool=is_v2,
            residual_with_cls_embed=False,
            rel_pos_embed=is_v2,
            proj_after_attn=is_v2,
            num_classes=1,
        )
        network.head = nn.Identity()
        self.backbone = adopt(replace_input_conv(network, in_channels))
        self.head = FeatureHead(config.width * 8, heads, config.dropout)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        Raises ConfigError for clips of another size than the configuration's.
        """
        frames, height, width = clips_bcthw.shape[2:]
        self.config.check_clip(frames, height, width)
        logits: dict[str, Tensor] = self.head(self.backbone(clips_bcthw))
        return logits


def _blocks(config: MViTConfig) -> list[dict[str, Any]]:
    """The fields of torchvision's ``MSBlockConfig`` for each block."""
    stages = [stage for stage, count in enumerate(config.stage_blocks) for _ in range(count)]
    before = [0, *stages[:-1]]
    after = [*stages[1:], stages[-1]]
    is_v2 = config.version == "v2"
    blocks = []
    for stage, earlier, later in zip(stages, before, after, strict=True):
        is_first = stage != earlier  # of a stage, in which queries are pooled
        pooled = 2 ** (3 - stage)
        blocks.append(
            {
                "num_heads": 2**stage,
                "input_channels": config.width * 2 ** (earlier if is_v2 else stage),
                "output_channels": config.width * 2 ** (stage if is_v2 else later),
                "kernel_q": _KERNEL if is_v2 or is_first else [],
                "kernel_kv": _KERNEL,
                "stride_q": [1, 2, 2] if is_first else [1, 1, 1] if is_v2 else [],
                "stride_kv": [1, pooled, pooled],
            }
        )
    return blocks


def _preset(version: str, stride: int) -> ModelPreset:
    config = MViTConfig.model_validate({"version": version})
    source = {"v1": "arXiv 2104.11227", "v2": "arXiv 2112.01526"}[version]
    return ModelPreset(config, frames=16, stride=stride, side=224, source=source, study="convnets")


PRESETS = {"mvit_v1_b": _preset("v1", 4), "mvit_v2_s": _preset("v2", 4)}
