"""Random brightness and contrast."""

import numpy as np

from kineray.config.augment.color_jitter import ColorJitterConfig


def color_jitter(
    config: ColorJitterConfig, clip_thwc: np.ndarray, rgb_channels: int, rng: np.random.Generator
) -> np.ndarray:
    """Change brightness and contrast of the RGB channels, in place, by one lookup table for the whole clip.

    ``clip_thwc``: uint8 [T, H, W, C], whose first ``rgb_channels`` channels are RGB.
    """
    brightness = 1 + config.brightness * rng.uniform(-1, 1)
    contrast = 1 + config.contrast * rng.uniform(-1, 1)
    if rgb_channels:
        rgb_thwc = clip_thwc[..., :rgb_channels]
        mean = float(rgb_thwc.mean()) * brightness
        table = (np.arange(256) * brightness - mean) * contrast + mean
        rgb_thwc[...] = np.rint(table).clip(0, 255).astype(np.uint8)[rgb_thwc]
    return clip_thwc
