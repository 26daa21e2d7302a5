"""Random erasing (Zhong et al., arXiv 1708.04896)."""

import numpy as np

from kineray.config.augment.random_erasing import RandomErasingConfig
from kineray.data.clips.geometry import random_extent
from kineray.data.clips.warp import NO_MOTION


def random_erasing(
    config: RandomErasingConfig, clip_thwc: np.ndarray, rgb_channels: int, rng: np.random.Generator
) -> np.ndarray:
    """Erase one rectangle in all frames, in place.

    ``clip_thwc``: uint8 [T, H, W, C], whose first ``rgb_channels`` channels are RGB. A rectangle that does
    not fit into the frame is drawn again, and after ten of them the clip stays whole, as in torchvision.
    """
    if rng.random() >= config.probability:
        return clip_thwc
    height, width = clip_thwc.shape[1:3]
    extent = random_extent(height, width, config.area, config.aspect, rng)
    if extent is None:
        return clip_thwc
    rows, columns = (max(1, round(length)) for length in extent)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    erased = clip_thwc[:, top : top + rows, left : left + columns]
    erased[..., :rgb_channels] = rng.integers(0, 256, (rows, columns, rgb_channels), np.uint8)
    erased[..., rgb_channels:] = NO_MOTION
    return clip_thwc
