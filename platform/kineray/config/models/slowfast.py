"""SlowFast networks."""

from typing import Literal, Self

from pydantic import model_validator

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


class SlowFastConfig(ModelSection):
    """SlowFast networks (Feichtenhofer et al., arXiv 1812.03982); the defaults are R50 4x16.

    ``alpha``: the Fast pathway reads alpha times more frames than the Slow one. ``beta_inv``: it has
    1/beta_inv of its channels. ``fusion_ratio`` and ``fusion_kernel``: channels (relative to the Fast
    pathway's) and temporal size of the lateral connections. ``temporal_kernels_slow/_fast``: temporal
    size of conv a in res2..res5; ``temporal_blocks``: how many first blocks of each stage have it
    (None: all). ``nonlocal_blocks``: after which blocks of res4 (counted from 0) the Slow pathway has
    a non-local block. ``head_pool``: side of the head's pooling window on the last feature map
    (training crop / 32); a larger map is classified at every position and the probabilities averaged.
    """

    type: Literal["slowfast"] = "slowfast"
    stage_blocks: PositiveInts4 = (3, 4, 6, 3)
    width: PositiveInt = 64
    alpha: PositiveInt = 8
    beta_inv: PositiveInt = 8
    fusion_ratio: PositiveInt = 2
    fusion_kernel: KernelSize = 5
    temporal_kernels_slow: KernelSizes = (1, 1, 3, 3)
    temporal_kernels_fast: KernelSizes = (3, 3, 3, 3)
    temporal_blocks: BlockCounts | None = None
    nonlocal_blocks: Ints = ()
    head_pool: PositiveInt = 7
    dropout: Probability = 0.5

    @model_validator(mode="after")
    def _channels_divide(self) -> Self:
        if self.width % self.beta_inv:
            raise ValueError(f"width {self.width} is not a multiple of beta_inv {self.beta_inv}")
        outside = [block for block in self.nonlocal_blocks if not 0 <= block < self.stage_blocks[2]]
        if outside:
            raise ValueError(
                f"nonlocal_blocks {outside[0]} is not one of the {self.stage_blocks[2]} res4 blocks"
            )
        return self

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ValueError unless the Fast pathway reads alpha times as many frames as the Slow one."""
        if frames % self.alpha:
            raise ValueError(f"data.frames {frames} is not a multiple of model.alpha {self.alpha}")
