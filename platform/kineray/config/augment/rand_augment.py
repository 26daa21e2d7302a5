"""RandAugment."""

from typing import Annotated

from pydantic import Field

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import PositiveInt


class RandAugmentConfig(
    ClipAugmentation, type="rand_augment", builds="kineray.data.clips.rand_augment.rand_augment"
):
    """Random operations, the same for all frames of a clip (Cubuk et al., arXiv 1909.13719).

    ``operations``: how many, one after the other, of: nothing, shear and shift along x and y, rotation,
    brightness, saturation, contrast, sharpness, posterising, solarising, stretching the contrast, equalising
    the histogram. ``magnitude``: how strong they are, from 0 to 30 as in the paper; their ranges are those
    of torchvision. Colours change for RGB only; flow is moved like RGB, and its vectors turn with it.
    """

    operations: PositiveInt = 2
    magnitude: Annotated[float, Field(ge=0, le=30)] = 9.0
