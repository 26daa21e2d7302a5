"""3D ResNets with one pathway: Slow-only, C2D and I3D, and their non-local forms.

C2D, I3D and the non-local networks: Wang, Girshick, Gupta, He, arXiv 1711.07971, Table 1 and section 4;
Slow-only: Feichtenhofer et al., arXiv 1812.03982. Temporal kernels by block, as in PySlowFast:

    stage   R50                          stride  slow       c2d             i3d
    conv1   7x7, 64                      2       1          1               5
    pool1   max 1x3x3                    2
    res2    [1x1 64, 3x3 64, 256] x 3    1       1 1 1      1 1 1           3 3 3
    pool2   max 2x1x1                    1       no         halves frames   halves frames
    res3    [1x1 128, 3x3 128, 512] x 4  2       1 1 1 1    1 1 1 1         3 1 3 1
    res4    [1x1 256, 3x3 256, 1024] x 6 2       all 3      all 1           3 1 3 1 3 1
    res5    [1x1 512, 3x3 512, 2048] x 3 2       3 3 3      1 1 1           1 3 1

The temporal kernel is that of the first 1x1 convolution of a bottleneck. Non-local blocks follow res3
blocks 1 and 3 and res4 blocks 1, 3 and 5, in R50 and R101.
"""

from collections.abc import Mapping
from itertools import cycle, islice

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.models.blocks import Bottleneck, Pathway, initialise
from kineray.models.heads import Head
from kineray.models.preset import ModelPreset

# Temporal kernels of conv1, and of res2 to res5; those of a stage are repeated over its blocks.
_STEM_KERNELS = {"slow": 1, "c2d": 1, "i3d": 5}
_TEMPORAL_KERNELS = {
    "slow": ((1,), (1,), (3,), (3,)),
    "c2d": ((1,), (1,), (1,), (1,)),
    "i3d": ((3,), (3, 1), (3, 1), (1, 3)),
}


class ResNet3d(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: ResNet3dConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        kernels = zip(_TEMPORAL_KERNELS[config.variant], config.stage_blocks, strict=True)
        self.backbone = Pathway(
            in_channels=in_channels,
            width=config.width,
            stem_kernel=_STEM_KERNELS[config.variant],
            temporal_kernels=[list(islice(cycle(pattern), blocks)) for pattern, blocks in kernels],
            block=Bottleneck,
            nonlocal_blocks={3: config.nonlocal_res3, 4: config.nonlocal_res4},
            nonlocal_form=config.nonlocal_form,
        )
        self.head = Head(self.backbone.channels[4], heads, config.head_pool, config.dropout)
        initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        Raises ConfigError for an odd number of frames if they are pooled in pairs, and for frames that are
        too small for the non-local blocks.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        features = self.backbone.res2(self.backbone.stem(clips_bcthw))
        if self.config.variant != "slow":
            features = F.max_pool3d(features, (2, 1, 1))
        for stage in (self.backbone.res3, self.backbone.res4, self.backbone.res5):
            features = stage(features)
        logits: dict[str, Tensor] = self.head([features])
        return logits


_R50 = (3, 4, 6, 3)
_R101 = (3, 4, 23, 3)
_NONLOCAL = {"nonlocal_res3": (1, 3), "nonlocal_res4": (1, 3, 5)}
_SLOW = ResNet3dConfig()
_SLOW_NL = _SLOW.model_copy(update=_NONLOCAL)
_C2D, _C2D_R101 = (ResNet3dConfig(variant="c2d", stage_blocks=blocks) for blocks in (_R50, _R101))
_I3D, _I3D_R101 = (ResNet3dConfig(variant="i3d", stage_blocks=blocks) for blocks in (_R50, _R101))


def _preset(config: ResNet3dConfig, source: str, frames: int = 8, stride: int = 8) -> ModelPreset:
    return ModelPreset(config, frames=frames, stride=stride, side=256, source=source, study="slowfast")


def _with_nonlocal(config: ResNet3dConfig) -> ResNet3dConfig:
    return config.model_copy(update={**_NONLOCAL, "nonlocal_form": "softmax"})


_SLOWFAST_PAPER = "arXiv 1812.03982"
_NONLOCAL_PAPER = "arXiv 1711.07971"

PRESETS = {
    "slow_r50_4x16": _preset(_SLOW, _SLOWFAST_PAPER, frames=4, stride=16),
    "slow_r50_8x8": _preset(_SLOW, _SLOWFAST_PAPER),
    "slow_nl_r50_4x16": _preset(_SLOW_NL, _SLOWFAST_PAPER, frames=4, stride=16),
    "slow_nl_r50_8x8": _preset(_SLOW_NL, _SLOWFAST_PAPER),
    "c2d_r50_8x8": _preset(_C2D, _NONLOCAL_PAPER),
    "c2d_nl_r50_8x8": _preset(_with_nonlocal(_C2D), _NONLOCAL_PAPER),
    "c2d_r101_8x8": _preset(_C2D_R101, _NONLOCAL_PAPER),
    "c2d_nl_r101_8x8": _preset(_with_nonlocal(_C2D_R101), _NONLOCAL_PAPER),
    "i3d_r50_8x8": _preset(_I3D, _NONLOCAL_PAPER),
    "i3d_nl_r50_8x8": _preset(_with_nonlocal(_I3D), _NONLOCAL_PAPER),
    "i3d_r101_8x8": _preset(_I3D_R101, _NONLOCAL_PAPER),
    "i3d_nl_r101_8x8": _preset(_with_nonlocal(_I3D_R101), _NONLOCAL_PAPER),
}
