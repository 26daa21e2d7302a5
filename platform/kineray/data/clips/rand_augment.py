"""RandAugment (Cubuk et al., arXiv 1909.13719), with the ranges of torchvision."""

import math
from collections.abc import Callable, Mapping

import numpy as np

from kineray.config.augment.rand_augment import RandAugmentConfig
from kineray.data.clips import color
from kineray.data.clips.warp import warp


def rand_augment(
    config: RandAugmentConfig, clip_thwc: np.ndarray, rgb_channels: int, rng: np.random.Generator
) -> np.ndarray:
    """Apply ``config.operations`` random operations to a clip: uint8 [T, H, W, C].

    Its first ``rgb_channels`` channels are RGB, the others optical flow.
    """
    strength = config.magnitude / 30
    for _ in range(config.operations):
        name = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if name in MOVES:
            clip_thwc = moved(clip_thwc, rgb_channels, name, sign * strength)
        elif name in COLORS and rgb_channels:
            COLORS[name](clip_thwc[..., :rgb_channels], strength, sign)
    return clip_thwc


def moved(clip_thwc: np.ndarray, rgb_channels: int, name: str, strength: float) -> np.ndarray:
    """A clip after one of ``MOVES``; ``strength``: -1 to 1."""
    height, width = clip_thwc.shape[1:3]
    linear, shift = MOVES[name](strength)
    # Shears leave the upper left corner where it is, as in the paper's code.
    centre = (0.0, 0.0) if name.startswith("shear") else (width / 2, height / 2)
    pixels = math.trunc(shift[0] * width), math.trunc(shift[1] * height)
    return warp(clip_thwc, rgb_channels, np.array(linear), pixels, centre=centre)


def _rotation(degrees: float) -> tuple[list[list[float]], tuple[float, float]]:
    """Counter-clockwise, seen by the viewer: y points down."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [[cos, sin], [-sin, cos]], (0.0, 0.0)


_SHIFT = 150 / 331  # of a side: the paper's code shifts by up to 150 of 331 pixels
_SAME = [[1.0, 0.0], [0.0, 1.0]]

MOVES: Mapping[str, Callable[[float], tuple[list[list[float]], tuple[float, float]]]] = {
    "shear_x": lambda strength: ([[1, -0.3 * strength], [0, 1]], (0, 0)),
    "shear_y": lambda strength: ([[1, 0], [-0.3 * strength, 1]], (0, 0)),
    "shift_x": lambda strength: (_SAME, (_SHIFT * strength, 0)),
    "shift_y": lambda strength: (_SAME, (0, _SHIFT * strength)),
    "rotate": lambda strength: _rotation(30 * strength),
}
"""Linear map and shift, in sides of the frame, of a strength from -1 to 1."""

COLORS: Mapping[str, Callable[[np.ndarray, float, float], None]] = {
    "brightness": lambda rgb, strength, sign: color.brighten(rgb, 1 + 0.9 * strength * sign),
    "saturation": lambda rgb, strength, sign: color.saturate(rgb, 1 + 0.9 * strength * sign),
    "contrast": lambda rgb, strength, sign: color.change_contrast(rgb, 1 + 0.9 * strength * sign),
    "sharpness": lambda rgb, strength, sign: color.sharpen(rgb, 1 + 0.9 * strength * sign),
    "posterise": lambda rgb, strength, _: color.posterise(rgb, 8 - round(4 * strength)),
    "solarise": lambda rgb, strength, _: color.solarise(rgb, 255 * (1 - strength)),
    "stretch_contrast": lambda rgb, _strength, _sign: color.stretch_contrast(rgb),
    "equalise": lambda rgb, _strength, _sign: color.equalise(rgb),
}
"""Change RGB in place, for a strength from 0 to 1 and a sign."""

OPERATIONS = ("nothing", *MOVES, *COLORS)
