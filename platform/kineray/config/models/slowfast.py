"""SlowFast networks."""

from typing import Self

from pydantic import model_validator

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import (
    BlockCounts,
    Ints,
    KernelSize,
    KernelSizes,
    PositiveInt,
    PositiveInts4,
    Probability,
)
from kineray.config.models.base import ModelSection
from kineray.config.models.residual import BlockName, check_nonlocal, check_nonlocal_sides


class SlowFastConfig(ModelSection, type="slowfast", builds="kineray.models.slowfast.SlowFast"):
    """SlowFast networks (Feichtenhofer et al., arXiv 1812.03982); the defaults are R50 4x16.

    ``block``: the residual block of res2 to res5 in both pathways: ``bottleneck`` (ResNet-50 and deeper),
    ``basic`` (ResNet-18 and 34) or ``r2plus1d`` (basic, with factorised convolutions). ``alpha``: the Fast
    pathway reads alpha times as many frames as the Slow one. ``beta_inv``: the Fast pathway has 1/beta_inv
    of the Slow one's channels. ``fusion_ratio`` and ``fusion_kernel``: channels (relative to the Fast
    pathway's) and temporal kernel size of the lateral connections. ``temporal_kernels_slow/_fast``:
    temporal kernel size of the blocks in res2 to res5; ``temporal_blocks_slow/_fast``: how many blocks at
    the start of each stage have it (None: all). ``nonlocal_res3`` and ``nonlocal_res4``: the blocks of the
    Slow pathway (counted from 0) that a non-local block follows. ``head_pool``: side of the head's pooling
    window on the last feature map (training crop / 32); a larger map is classified at every position and
    the probabilities are averaged.
    """

    block: BlockName = "bottleneck"
    stage_blocks: PositiveInts4 = (3, 4, 6, 3)
    width: PositiveInt = 64
    alpha: PositiveInt = 8
    beta_inv: PositiveInt = 8
    fusion_ratio: PositiveInt = 2
    fusion_kernel: KernelSize = 5
    temporal_kernels_slow: KernelSizes = (1, 1, 3, 3)
    temporal_kernels_fast: KernelSizes = (3, 3, 3, 3)
    temporal_blocks_slow: BlockCounts | None = None
    temporal_blocks_fast: BlockCounts | None = None
    nonlocal_res3: Ints = ()
    nonlocal_res4: Ints = ()
    head_pool: PositiveInt = 7
    dropout: Probability = 0.5

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.width % self.beta_inv:
            raise ValueError(f"width {self.width} is not a multiple of beta_inv {self.beta_inv}")
        check_nonlocal(self.stage_blocks, self.nonlocal_res3, self.nonlocal_res4)
        return self

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError unless the number of frames is a multiple of alpha.

        Also for frames that are too small for the non-local blocks.
        """
        if frames % self.alpha:
            raise wrong_clip("frames", frames, f"not a multiple of model.alpha {self.alpha}")
        check_nonlocal_sides(crop, eval_crop, self.nonlocal_res3, self.nonlocal_res4)
