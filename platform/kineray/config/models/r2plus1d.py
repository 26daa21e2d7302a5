"""R(2+1)D networks."""

from typing import Literal

from kineray.config.fields import PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection


class R2Plus1DConfig(ModelSection, type="r2plus1d", builds="kineray.models.r2plus1d.R2Plus1D"):
    """R(2+1)D networks (Tran et al., arXiv 1711.11248); the defaults are R(2+1)D-34.

    ``bottleneck``: whether blocks have three convolutions, the middle one factorised, as in R(2+1)D-152;
    otherwise they have two factorised ones. ``stem``: the 3D kernel that the stem factorises, 7x7x7, or
    3x7x7 as in torchvision's R(2+1)D-18.
    """

    stage_blocks: PositiveInts4 = (3, 4, 6, 3)
    bottleneck: bool = False
    width: PositiveInt = 64
    stem: Literal["7x7x7", "3x7x7"] = "7x7x7"
    dropout: Probability = 0.0
