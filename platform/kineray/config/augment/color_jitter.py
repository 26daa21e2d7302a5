"""Random brightness, contrast, saturation and hue."""

from typing import Annotated

from pydantic import Field

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import Probability


class ColorJitterConfig(
    ClipAugmentation, type="color_jitter", builds="kineray.data.clips.color_jitter.color_jitter"
):
    """Colours of the RGB frames of a clip, changed at random, equally in all frames and in this order.

    ``brightness`` b: every pixel value is multiplied by a factor from 1 - b to 1 + b. ``contrast`` c: its
    distance from the mean grey value of the clip is multiplied by a factor from 1 - c to 1 + c.
    ``saturation`` s: its distance from the grey value of the pixel, by a factor from 1 - s to 1 + s. ``hue``
    h: hues are turned by -h to h of a circle. Flow is unchanged.
    """

    brightness: Probability = 0.4
    contrast: Probability = 0.4
    saturation: Probability = 0.4
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
