"""Operations on the colours of whole clips, each the same for all frames.

They change uint8 [T, H, W, 3] in place. For a clip of one frame they are those of torchvision's functional
transforms, but for rounding: values are rounded to the nearest, not down.
"""

from collections.abc import Iterator

import numpy as np

_LUMA = np.array([0.2989, 0.587, 0.114], np.float32)  # ITU-R BT.601, as torchvision has it
_VALUES = np.arange(256, dtype=np.float32)


def brighten(rgb_thwc: np.ndarray, factor: float) -> None:
    """Multiply every value by ``factor``."""
    _look_up(rgb_thwc, _VALUES * factor)


def change_contrast(rgb_thwc: np.ndarray, factor: float) -> None:
    """Multiply the distance of every value from the mean grey value of the clip by ``factor``."""
    mean = float(rgb_thwc.mean(axis=(0, 1, 2)) @ _LUMA)
    _look_up(rgb_thwc, (_VALUES - mean) * factor + mean)


def saturate(rgb_thwc: np.ndarray, factor: float) -> None:
    """Multiply the distance of every value from the grey value of its pixel by ``factor``."""
    for rgb_hwc, values_hwc in _frames(rgb_thwc):
        grey_hw1 = (values_hwc @ _LUMA)[..., None]
        rgb_hwc[...] = _rounded(grey_hw1 + (values_hwc - grey_hw1) * factor)


def turn_hue(rgb_thwc: np.ndarray, turn: float) -> None:
    """Turn the hue of every pixel by ``turn`` of a circle; saturation and value (HSV) stay."""
    for rgb_hwc in rgb_thwc:
        red_hw, green_hw, blue_hw = np.ascontiguousarray(rgb_hwc.transpose(2, 0, 1)).astype(np.float32)
        top_hw = np.maximum(np.maximum(red_hw, green_hw), blue_hw)
        spread_hw = top_hw - np.minimum(np.minimum(red_hw, green_hw), blue_hw)
        other_hw = np.where(
            top_hw == green_hw, 2 * spread_hw + blue_hw - red_hw, 4 * spread_hw + red_hw - green_hw
        )
        sixths_hw = np.where(top_hw == red_hw, green_hw - blue_hw, other_hw)
        sixths_hw /= spread_hw.clip(min=1)
        # A channel is at the top within a sixth of the circle from its own hue, and at the bottom beyond two.
        for channel, own_hue in enumerate((0, 2, 4)):
            apart_hw = sixths_hw + (6 * turn - own_hue)
            apart_hw -= 6 * np.rint(apart_hw / 6)
            below_hw = (np.abs(apart_hw) - 1).clip(0, 1)
            rgb_hwc[..., channel] = np.rint(top_hw - spread_hw * below_hw)


def sharpen(rgb_thwc: np.ndarray, factor: float) -> None:
    """Multiply the distance of every value from its smoothed one by ``factor``; border pixels stay.

    A smoothed value is the mean of 3 x 3 pixels in which the middle one counts five times.
    """
    for rgb_hwc, values_hwc in _frames(rgb_thwc):
        rows = values_hwc[:-2] + values_hwc[1:-1] + values_hwc[2:]
        middle = values_hwc[1:-1, 1:-1]
        smooth = np.rint((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * middle) / 13)
        rgb_hwc[1:-1, 1:-1] = _rounded(smooth + (middle - smooth) * factor)


def posterise(rgb_thwc: np.ndarray, bits: int) -> None:
    """Keep only the highest ``bits`` bits of every value."""
    rgb_thwc &= np.uint8(256 - 2 ** (8 - bits))


def solarise(rgb_thwc: np.ndarray, threshold: float) -> None:
    """Invert the values from ``threshold`` on."""
    _look_up(rgb_thwc, np.where(threshold <= _VALUES, 255 - _VALUES, _VALUES))


def stretch_contrast(rgb_thwc: np.ndarray) -> None:
    """Spread the values that each channel has in the clip from 0 to 255."""
    for channel_thw in _channels(rgb_thwc):
        low, high = float(channel_thw.min()), float(channel_thw.max())
        if low < high:
            _look_up(channel_thw, (_VALUES - low) * (255 / (high - low)))


def equalise(rgb_thwc: np.ndarray) -> None:
    """Make all values of each channel about equally frequent in the clip."""
    for channel_thw in _channels(rgb_thwc):
        counts = np.bincount(channel_thw.ravel(), minlength=256)
        step = counts[counts > 0][:-1].sum() // 255
        if step:
            _look_up(channel_thw, np.append(0, (counts.cumsum() + step // 2) // step)[:-1])


def _look_up(values: np.ndarray, table: np.ndarray) -> None:
    values[...] = _rounded(table)[values]


def _rounded(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _channels(rgb_thwc: np.ndarray) -> Iterator[np.ndarray]:
    return (rgb_thwc[..., channel] for channel in range(3))


def _frames(rgb_thwc: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every frame, and its values as float32: one at a time, which caches can hold."""
    return ((rgb_hwc, rgb_hwc.astype(np.float32)) for rgb_hwc in rgb_thwc)
