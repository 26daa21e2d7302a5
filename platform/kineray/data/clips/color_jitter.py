"""Random brightness, contrast, saturation and hue."""

import numpy as np

from kineray.config.augment.color_jitter import ColorJitterConfig
from kineray.data.clips.color import brighten, change_contrast, saturate, turn_hue


def color_jitter(
    config: ColorJitterConfig, clip_thwc: np.ndarray, rgb_channels: int, rng: np.random.Generator
) -> np.ndarray:
    """Change the colours of the RGB channels, in place, all frames alike.

    ``clip_thwc``: uint8 [T, H, W, C], whose first ``rgb_channels`` channels are RGB.
    """
    rgb_thwc = clip_thwc[..., :rgb_channels]
    draws = rng.uniform(-1, 1, 4)  # always four, so that later random numbers do not depend on the fields
    changes = (config.brightness, config.contrast, config.saturation, config.hue) * draws
    for change, amount in zip((brighten, change_contrast, saturate), changes[:3], strict=True):
        if rgb_channels and amount:
            change(rgb_thwc, 1 + amount)
    if rgb_channels and changes[3]:
        turn_hue(rgb_thwc, changes[3])
    return clip_thwc
