"""Random brightness and contrast."""

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import Probability


class ColorJitterConfig(
    ClipAugmentation, type="color_jitter", builds="kineray.data.clips.color_jitter.color_jitter"
):
    """Brightness and contrast of the RGB frames of a clip, changed at random, equally in all frames.

    ``brightness`` b: every pixel value is multiplied by a factor from 1 - b to 1 + b. ``contrast`` c: its
    distance from the mean of the clip is multiplied by a factor from 1 - c to 1 + c. Flow is unchanged.
    """

    brightness: Probability = 0.4
    contrast: Probability = 0.4
