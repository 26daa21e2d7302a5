"""SlowFast networks: Feichtenhofer, Fan, Malik, He, arXiv 1812.03982, Table 1.

A Slow pathway sees few frames with many channels; a Fast pathway sees ``alpha`` times as many frames, with
``1 / beta_inv`` of the channels; lateral connections feed Fast features into the Slow pathway after conv1,
res2, res3 and res4.

    stage   Slow (R50)                        Fast (R50)                      spatial stride
    conv1   1x7x7, 64                         5x7x7, 8                        2
    pool1   max 1x3x3                         max 1x3x3                       2
    res2    [1x1x1 64, 1x3x3 64, 256] x 3     [3x1x1 8, 1x3x3 8, 32] x 3      1
    res3    [1x1x1 128, 1x3x3 128, 512] x 4   [3x1x1 16, 1x3x3 16, 64] x 4    2
    res4    [3x1x1 256, 1x3x3 256, 1024] x 6  [3x1x1 32, 1x3x3 32, 128] x 6   2
    res5    [3x1x1 512, 1x3x3 512, 2048] x 3  [3x1x1 64, 1x3x3 64, 256] x 3   2

R18 and R34 have blocks of two convolutions instead of bottlenecks, with temporal kernels in the same stages
(``BasicBlock``): Slow res4 is [3x3x3 256, 1x3x3 256], its Fast counterpart [3x3x3 32, 1x3x3 32].
The backbone may also be made of R(2+1)D blocks (``R2Plus1dBlock``).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from kineray.config.clip_checks import wrong_clip
from kineray.config.models.slowfast import SlowFastConfig
from kineray.models.blocks import BasicBlock, Bottleneck, Lateral, Pathway, R2Plus1dBlock, initialise
from kineray.models.blocks.residual import ResidualBlock
from kineray.models.heads import Head
from kineray.models.preset import ModelPreset

_BLOCKS: Mapping[str, type[ResidualBlock]] = {
    "bottleneck": Bottleneck,
    "basic": BasicBlock,
    "r2plus1d": R2Plus1dBlock,
}


class SlowFast(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: number of clip channels (3 for RGB, 2 for optical flow, more for stacked flow).
    """

    def __init__(self, config: SlowFastConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        fast_width = config.width // config.beta_inv
        block = _BLOCKS[config.block]
        self.slow = Pathway(
            in_channels=in_channels,
            width=config.width,
            fused_width=fast_width * config.fusion_ratio,
            stem_kernel=1,
            temporal_kernels=_by_block(config, config.temporal_kernels_slow, config.temporal_blocks_slow),
            block=block,
            nonlocal_blocks={3: config.nonlocal_res3, 4: config.nonlocal_res4},
        )
        self.fast = Pathway(
            in_channels=in_channels,
            width=fast_width,
            stem_kernel=5,
            temporal_kernels=_by_block(config, config.temporal_kernels_fast, config.temporal_blocks_fast),
            block=block,
        )
        self.laterals = nn.ModuleList(
            Lateral(channels, config.fusion_ratio, config.fusion_kernel, config.alpha)
            for channels in self.fast.channels[:4]
        )
        features = self.slow.channels[4] + self.fast.channels[4]
        self.head = Head(features, heads, config.head_pool, config.dropout)
        initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, alpha T, H, W] -> {head: logits [B, classes]}.

        The clips contain the frames of the Fast pathway; those of the Slow one are picked from them. Raises
        ConfigError if their number is not a multiple of alpha, and for frames that are too small for the
        non-local blocks.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        indices = slow_indices(clips_bcthw.shape[2], self.config.alpha)
        # index_select would separate the channels of a pixel in memory.
        slow = self.slow.stem(torch.cat([clips_bcthw[:, :, index : index + 1] for index in indices], dim=2))
        fast = self.fast.stem(clips_bcthw)
        stages = zip(self.laterals, self.slow.stages(), self.fast.stages(), strict=True)
        for fuse, slow_stage, fast_stage in stages:
            slow = slow_stage(fuse(slow, fast))
            fast = fast_stage(fast)
        logits: dict[str, Tensor] = self.head([slow, fast])
        return logits


def slow_indices(frames: int, alpha: int) -> tuple[int, ...]:
    """Which of the Fast frames the Slow pathway sees.

    They are spread from the first frame to the last, and are not every alpha-th one, since the published
    weights were trained in this way (PySlowFast, ``pack_pathway_output``). Raises ConfigError unless
    ``frames`` is a multiple of ``alpha``.

    >>> slow_indices(32, 4)
    (0, 4, 8, 13, 17, 22, 26, 31)
    """
    if frames % alpha:
        raise wrong_clip("frames", frames, f"not a multiple of model.alpha {alpha}")
    slow = frames // alpha
    return tuple(index * (frames - 1) // max(slow - 1, 1) for index in range(slow))


def _by_block(
    config: SlowFastConfig, kernels: Sequence[int], temporal_blocks: Sequence[int] | None
) -> list[list[int]]:
    """The temporal kernel of every block of res2 to res5."""
    stages = zip(config.stage_blocks, kernels, temporal_blocks or config.stage_blocks, strict=True)
    return [
        [kernel if block < temporal else 1 for block in range(blocks)] for blocks, kernel, temporal in stages
    ]


_R18 = SlowFastConfig(block="basic", stage_blocks=(2, 2, 2, 2))
_R34 = SlowFastConfig(block="basic")
_R2PLUS1D_34 = SlowFastConfig(block="r2plus1d")
_R50_4X16 = SlowFastConfig()
_R50_8X8 = SlowFastConfig(alpha=4, fusion_kernel=7)
_R50_NL_4X16 = SlowFastConfig(nonlocal_res3=(1, 3), nonlocal_res4=(1, 3, 5))
_R50_NL_8X8 = SlowFastConfig(alpha=4, nonlocal_res3=(1, 3), nonlocal_res4=(1, 3, 5))
# In PySlowFast's names the two numbers after R101 say in how many of the 23 res4 blocks the Slow and the Fast
# pathway have temporal kernels: in 6, as many as in an R50 ("50"), or in all ("101"). The paper's is 50_50.
_R101_101_101 = SlowFastConfig(stage_blocks=(3, 4, 23, 3), alpha=4)
_R101_50_101 = _R101_101_101.model_copy(update={"temporal_blocks_slow": (3, 4, 6, 3)})
_R101 = _R101_50_101.model_copy(update={"temporal_blocks_fast": (3, 4, 6, 3)})
_R101_NL = _R101.model_copy(update={"nonlocal_res4": (6, 13, 20)})
# For embedded use: half the blocks of the R18, and half its channels.
_SHALLOW = SlowFastConfig(block="basic", stage_blocks=(1, 1, 1, 1))
_THIN = SlowFastConfig(block="basic", stage_blocks=(2, 2, 2, 2), width=32)


def _preset(config: SlowFastConfig, frames: int = 32, source: str = "arXiv 1812.03982") -> ModelPreset:
    return ModelPreset(config, frames=frames, stride=2, side=256, source=source, study="slowfast")


_OTHER_BACKBONE = "arXiv 1812.03982 with another backbone"

PRESETS = {
    "slowfast_r50_4x16": _preset(_R50_4X16),
    "slowfast_r50_8x8": _preset(_R50_8X8),
    "slowfast_r50_16x8": _preset(_R50_8X8, frames=64),
    "slowfast_nl_r50_4x16": _preset(_R50_NL_4X16),
    "slowfast_nl_r50_8x8": _preset(_R50_NL_8X8),
    "slowfast_r101_8x8": _preset(_R101),
    "slowfast_r101_16x8": _preset(_R101, frames=64),
    "slowfast_r101_50_101_8x8": _preset(_R101_50_101),
    "slowfast_r101_101_101_8x8": _preset(_R101_101_101),
    "slowfast_nl_r101_8x8": _preset(_R101_NL),
    "slowfast_nl_r101_16x8": _preset(_R101_NL, frames=64),
    "slowfast_r18_4x16": _preset(_R18, source=_OTHER_BACKBONE),
    "slowfast_r34_4x16": _preset(_R34, source=_OTHER_BACKBONE),
    "slowfast_r2plus1d_34_4x16": _preset(_R2PLUS1D_34, source=_OTHER_BACKBONE),
    "slowfast_shallow_4x16": _preset(_SHALLOW, source=_OTHER_BACKBONE),
    "slowfast_thin_4x16": _preset(_THIN, source=_OTHER_BACKBONE),
}
