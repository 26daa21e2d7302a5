"""SlowFast networks: Feichtenhofer, Fan, Malik, He, arXiv 1812.03982, Table 1.

A Slow pathway sees few frames with many channels, a Fast pathway sees ``alpha`` times the frames with
``1 / beta_inv`` of the channels, and lateral connections feed Fast features into the Slow pathway after
conv1, res2, res3 and res4.

    stage   Slow (R50)                        Fast (R50)                      spatial stride
    conv1   1x7x7, 64                         5x7x7, 8                        2
    pool1   max 1x3x3                         max 1x3x3                       2
    res2    [1x1x1 64, 1x3x3 64, 256] x 3     [3x1x1 8, 1x3x3 8, 32] x 3      1
    res3    [1x1x1 128, 1x3x3 128, 512] x 4   [3x1x1 16, 1x3x3 16, 64] x 4    2
    res4    [3x1x1 256, 1x3x3 256, 1024] x 6  [3x1x1 32, 1x3x3 32, 128] x 6   2
    res5    [3x1x1 512, 1x3x3 512, 2048] x 3  [3x1x1 64, 1x3x3 64, 256] x 3   2
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

from kineray.config import SlowFastConfig
from kineray.errors import ConfigError
from kineray.models.blocks import Bottleneck, GroupBatchNorm, Lateral, NonLocal
from kineray.models.heads import Head
from kineray.models.preset import ModelPreset

EXPANSION = 4  # channels at the end of a bottleneck relative to its inside


class SlowFast(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: of the clips; 3 for RGB, 2 for optical flow and more for stacked flow.
    """

    def __init__(self, config: SlowFastConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.alpha = config.alpha
        fast_width = config.width // config.beta_inv
        ratio = config.fusion_ratio
        self.slow = Pathway(
            width=config.width,
            fused_width=fast_width * ratio,
            in_channels=in_channels,
            stem_kernel=1,
            temporal_kernels=config.temporal_kernels_slow,
            config=config,
            nonlocal_blocks=config.nonlocal_blocks,
        )
        self.fast = Pathway(
            width=fast_width,
            fused_width=0,
            in_channels=in_channels,
            stem_kernel=5,
            temporal_kernels=config.temporal_kernels_fast,
            config=config,
        )
        fast_channels = [fast_width, *(_stage_channels(fast_width, stage) for stage in range(3))]
        self.laterals = nn.ModuleList(
            Lateral(channels, ratio, config.fusion_kernel, config.alpha) for channels in fast_channels
        )
        features = _stage_channels(config.width, 3) + _stage_channels(fast_width, 3)
        self.head = Head(features, heads, config.head_pool, config.dropout)
        _initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, alpha T, H, W] -> {head: logits [B, classes]}.

        All the Fast frames are given, the Slow ones are picked here; training and evaluation return
        logits alike. Raises ConfigError where the number of frames is not a multiple of alpha.
        """
        indices = torch.tensor(slow_indices(clips_bcthw.shape[2], self.alpha), device=clips_bcthw.device)
        slow = self.slow.stem(clips_bcthw.index_select(2, indices))
        fast = self.fast.stem(clips_bcthw)
        stages = zip(self.laterals, self.slow.stages(), self.fast.stages(), strict=True)
        for fuse, slow_stage, fast_stage in stages:
            slow = slow_stage(fuse(slow, fast))
            fast = fast_stage(fast)
        logits: dict[str, Tensor] = self.head([slow, fast])
        return logits


class Pathway(nn.Module):
    """One pathway: a stem and res2 to res5. ``fused_width``: channels that the first lateral adds."""

    def __init__(
        self,
        *,
        width: int,
        fused_width: int,
        in_channels: int,
        stem_kernel: int,
        temporal_kernels: tuple[int, int, int, int],
        config: SlowFastConfig,
        nonlocal_blocks: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.stem = _stem(in_channels, width, stem_kernel)
        temporal_blocks = config.temporal_blocks or config.stage_blocks

        def stage(index: int) -> nn.Sequential:
            before, fused = width, fused_width
            if index > 0:
                before = _stage_channels(width, index - 1)
                fused = _stage_channels(fused_width, index - 1)
            return _stage(
                in_channels=before + fused,
                inner=width * 2**index,
                out_channels=_stage_channels(width, index),
                blocks=config.stage_blocks[index],
                temporal_kernel=temporal_kernels[index],
                temporal_blocks=temporal_blocks[index],
                stride=1 if index == 0 else 2,
                nonlocal_blocks=nonlocal_blocks if index == 2 else (),
            )

        self.res2, self.res3, self.res4, self.res5 = (stage(index) for index in range(4))

    def stages(self) -> tuple[nn.Module, ...]:
        """res2 to res5, in order."""
        return self.res2, self.res3, self.res4, self.res5


@cache
def slow_indices(frames: int, alpha: int) -> tuple[int, ...]:
    """Which of the Fast frames the Slow pathway sees.

    They are spread from the first frame to the last, not every alpha-th one: the published weights were
    trained so (PySlowFast, ``pack_pathway_output``).

    >>> slow_indices(32, 4)
    (0, 4, 8, 13, 17, 22, 26, 31)
    """
    if frames % alpha:
        raise ConfigError(f"data.frames {frames} is not a multiple of model.alpha {alpha}")
    return tuple(torch.linspace(0, frames - 1, frames // alpha, device="cpu").long().tolist())


def _stem(in_channels: int, width: int, temporal_kernel: int) -> nn.Sequential:
    """``in_channels`` -> ``width`` channels, a quarter of the height and width."""
    conv = nn.Conv3d(
        in_channels,
        width,
        (temporal_kernel, 7, 7),
        stride=(1, 2, 2),
        padding=(temporal_kernel // 2, 3, 3),
        bias=False,
    )
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=GroupBatchNorm(width),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
    )


def _stage(
    *,
    in_channels: int,
    inner: int,
    out_channels: int,
    blocks: int,
    temporal_kernel: int,
    temporal_blocks: int,
    stride: int,
    nonlocal_blocks: tuple[int, ...],
) -> nn.Sequential:
    """``blocks`` bottlenecks, of which the first ``temporal_blocks`` have ``temporal_kernel``."""
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    for block in range(blocks):
        stage[f"block{block}"] = Bottleneck(
            in_channels if block == 0 else out_channels,
            inner,
            out_channels,
            temporal_kernel if block < temporal_blocks else 1,
            stride if block == 0 else 1,
        )
        if block in nonlocal_blocks:
            stage[f"nonlocal{block}"] = NonLocal(out_channels)
    return nn.Sequential(stage)


def _stage_channels(width: int, stage: int) -> int:
    """Channels after res2 (stage 0) to res5 (stage 3) of a pathway of ``width``."""
    return int(width * EXPANSION * 2**stage)


def _initialise(model: nn.Module) -> None:
    """He et al. (arXiv 1502.01852) by fan-out for convolutions, normal(0, 0.01) for the classifiers."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


_R50_4X16 = SlowFastConfig()
_R50_8X8 = SlowFastConfig(alpha=4, fusion_kernel=7)
# The paper's R101: as in R50, only the first six res4 blocks have temporal kernels ("50_50" in PySlowFast).
_R101 = SlowFastConfig(stage_blocks=(3, 4, 23, 3), alpha=4, temporal_blocks=(3, 4, 6, 3))
_R101_NL = _R101.model_copy(update={"nonlocal_blocks": (6, 13, 20)})


def _preset(config: SlowFastConfig, frames: int = 32) -> ModelPreset:
    return ModelPreset(config, frames=frames, stride=2, side=256, source="arXiv 1812.03982", study="SlowFast")


PRESETS = {
    "slowfast_r50_4x16": _preset(_R50_4X16),
    "slowfast_r50_8x8": _preset(_R50_8X8),
    "slowfast_r101_8x8": _preset(_R101),
    "slowfast_r101_nl_8x8": _preset(_R101_NL),
    "slowfast_r101_nl_16x8": _preset(_R101_NL, frames=64),
}
