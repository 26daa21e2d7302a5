"""A clip augmentation of your own: now and then a clip without colour, as in self-supervised learning.

    kineray train experiments/slowfast.py --plugin examples/grayscale.py \
        data.augment.grayscale.probability=0.1

It runs in the processes that decode, which need no torch: give it a file that imports none.
"""

import numpy as np

import kineray

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class GrayscaleConfig(kineray.ClipAugmentation, type="grayscale"):
    """``probability``: share of the clips that lose their colour."""

    probability: float = 0.2

    def augment(self, clip_thwc: np.ndarray, rgb_channels: int, rng: np.random.Generator) -> np.ndarray:
        """uint8 [T, H, W, C], all frames alike; optical flow, which comes after RGB, stays as it is."""
        if rgb_channels and rng.random() < self.probability:
            gray_thw = np.rint(clip_thwc[..., :rgb_channels] @ LUMA)
            clip_thwc[..., :rgb_channels] = gray_thw[..., None].astype(np.uint8)
        return clip_thwc
