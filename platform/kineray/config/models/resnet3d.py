"""Residual networks with one pathway: Slow-only, C2D and I3D."""

from typing import Literal, Self

from pydantic import model_validator

from kineray.config.clip_checks import wrong_clip
from kineray.config.fields import Ints, PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection
from kineray.config.models.residual import check_nonlocal, check_nonlocal_sides


class ResNet3dConfig(ModelSection, type="resnet3d", builds="kineray.models.resnet3d.ResNet3d"):
    """3D ResNets with bottleneck blocks and one pathway; the defaults are Slow-only R50.

    ``variant``: where the temporal convolutions are. ``slow``, the Slow pathway of SlowFast, has them in
    res4 and res5; ``c2d`` has none; ``i3d``, the inflated network, has one in every second block (Wang et
    al., arXiv 1711.07971). The last two halve the number of frames after res2. ``nonlocal_res3`` and
    ``nonlocal_res4``: the blocks (counted from 0) that a non-local block of the form ``nonlocal_form``
    follows. ``head_pool``: side of the head's pooling window on the last feature map (training crop / 32);
    a larger map is classified at every position and the probabilities are averaged.
    """

    variant: Literal["slow", "c2d", "i3d"] = "slow"
    stage_blocks: PositiveInts4 = (3, 4, 6, 3)
    width: PositiveInt = 64
    nonlocal_res3: Ints = ()
    nonlocal_res4: Ints = ()
    nonlocal_form: Literal["dot_product", "softmax"] = "dot_product"
    head_pool: PositiveInt = 7
    dropout: Probability = 0.5

    @model_validator(mode="after")
    def _blocks_exist(self) -> Self:
        check_nonlocal(self.stage_blocks, self.nonlocal_res3, self.nonlocal_res4)
        return self

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for an odd number of frames if pairs are pooled, or frames that are too small."""
        if self.variant != "slow" and frames % 2:
            raise wrong_clip("frames", frames, f"odd, and model.variant={self.variant} pools pairs of frames")
        check_nonlocal_sides(crop, eval_crop, self.nonlocal_res3, self.nonlocal_res4)
