"""Colour operations, moves, RandAugment and random erasing, against torchvision's functional transforms."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from kineray.config.augment.color_jitter import ColorJitterConfig
from kineray.config.augment.rand_augment import RandAugmentConfig
from kineray.config.augment.random_erasing import RandomErasingConfig
from kineray.data.clips import color
from kineray.data.clips.color_jitter import color_jitter
from kineray.data.clips.rand_augment import COLORS, MOVES, OPERATIONS, moved
from kineray.errors import ConfigError


def a_clip(frames=3, height=21, width=30, channels=3, seed=0):
    """Random values from 20 to 200, some of them grey."""
    clip_thwc = np.random.default_rng(seed).integers(20, 200, (frames, height, width, channels), np.uint8)
    clip_thwc[:, :4] = clip_thwc[:, :4, :, :1]
    return clip_thwc


def of_torchvision(function, frame_hwc):
    image_chw = torch.from_numpy(frame_hwc.copy()).permute(2, 0, 1)
    return function(image_chw).permute(1, 2, 0).numpy()


def saturated(image_chw, factor):
    """On floats: on integers torchvision rounds twice, down both times."""
    return 255 * F.adjust_saturation(image_chw / 255, factor)


COLOR_CASES = {
    "brightness": (partial(color.brighten, factor=1.3), partial(F.adjust_brightness, brightness_factor=1.3)),
    "contrast": (partial(color.change_contrast, factor=0.4), partial(F.adjust_contrast, contrast_factor=0.4)),
    "more_contrast": (
        partial(color.change_contrast, factor=2),
        partial(F.adjust_contrast, contrast_factor=2),
    ),
    "saturation": (partial(color.saturate, factor=0.3), partial(saturated, factor=0.3)),
    "more_saturation": (
        partial(color.saturate, factor=2),
        partial(saturated, factor=2),
    ),
    "hue": (partial(color.turn_hue, turn=0.2), partial(F.adjust_hue, hue_factor=0.2)),
    "hue_back": (partial(color.turn_hue, turn=-0.4), partial(F.adjust_hue, hue_factor=-0.4)),
    "sharp": (partial(color.sharpen, factor=1.9), partial(F.adjust_sharpness, sharpness_factor=1.9)),
    "blurred": (partial(color.sharpen, factor=0.1), partial(F.adjust_sharpness, sharpness_factor=0.1)),
    "posterise": (partial(color.posterise, bits=3), partial(F.posterize, bits=3)),
    "nothing_posterised": (partial(color.posterise, bits=8), partial(F.posterize, bits=8)),
    "solarise": (partial(color.solarise, threshold=120.5), partial(F.solarize, threshold=120.5)),
    "stretch": (color.stretch_contrast, F.autocontrast),
    "equalise": (color.equalise, F.equalize),
}


@pytest.mark.parametrize("name", COLOR_CASES)
def test_operations_on_colours_are_those_of_torchvision_but_for_rounding(name):
    ours, theirs = COLOR_CASES[name]
    frame_hwc = a_clip(frames=1)[0]
    clip_thwc = frame_hwc[None].copy()
    ours(clip_thwc)
    expected_hwc = of_torchvision(theirs, frame_hwc)
    difference = np.abs(clip_thwc[0].astype(float) - expected_hwc)
    assert difference.max() <= (0 if name in {"equalise", "posterise", "solarise"} else 1)
    assert (clip_thwc[0] != frame_hwc).any() == (name != "nothing_posterised")


@pytest.mark.parametrize("name", ["contrast", "stretch", "equalise"])
def test_statistics_are_those_of_the_whole_clip(name):
    """Twice the same frame is changed as once, and a pixel alike in any frame."""
    clip_thwc = a_clip(frames=2)
    clip_thwc[1] //= 2
    clip_thwc[:, 9, 9] = 77
    COLOR_CASES[name][0](clip_thwc)
    assert (clip_thwc[0, 9, 9] == clip_thwc[1, 9, 9]).all()


def test_an_even_clip_stays_as_it_is():
    for change in (color.stretch_contrast, color.equalise):
        clip_thwc = np.full((2, 4, 4, 3), 9, np.uint8)
        change(clip_thwc)
        assert (clip_thwc == 9).all()


def affine(image, *, shift=(0, 0), shear=(0.0, 0.0)):
    degrees = [math.degrees(math.atan(value)) for value in shear]
    return F.affine(image, 0.0, list(shift), 1.0, degrees, InterpolationMode.NEAREST, center=[0, 0])


MOVE_CASES = {
    "shear_x": lambda s: partial(affine, shear=(0.3 * s, 0.0)),
    "shear_y": lambda s: partial(affine, shear=(0.0, 0.3 * s)),
    "shift_x": lambda s: partial(affine, shift=(int(150 / 331 * 30 * s), 0)),
    "shift_y": lambda s: partial(affine, shift=(0, int(150 / 331 * 21 * s))),
    "rotate": lambda s: lambda image: F.rotate(image, 30 * s, InterpolationMode.NEAREST),
}


@pytest.mark.parametrize("strength", [0.37, -0.8])
@pytest.mark.parametrize("name", MOVES)
def test_moves_are_those_of_torchvision(name, strength):
    clip_thwc = a_clip()
    moved_thwc = moved(clip_thwc, 3, name, strength)
    expected_thwc = np.stack([of_torchvision(MOVE_CASES[name](strength), frame) for frame in clip_thwc])
    # Where a point lies between two pixels, either of them is the nearest.
    assert (moved_thwc != expected_thwc).any(axis=3).mean() < 0.02
    assert (moved_thwc != clip_thwc).any() and (moved_thwc[..., 0] == 0).any()


def test_flow_is_moved_with_its_vectors():
    clip_thwc = np.full((1, 41, 41, 2), (128 + 40, 128), np.uint8)  # to the right
    turned = moved(clip_thwc, 0, "rotate", 1.0)
    u, v = turned[0, 20, 20].astype(float) - 127.5
    # By 30 degrees counter-clockwise: to the right and upwards, where y points down.
    assert math.degrees(math.atan2(-v, u)) == pytest.approx(30, abs=1.5)
    assert math.hypot(u, v) == pytest.approx(40.5, abs=1)
    assert (turned[0, 0, 0] == 128).all()  # no motion
    shifted = moved(clip_thwc, 0, "shift_x", 0.5)
    assert (shifted[0, :, 20:] == clip_thwc[0, :, 20:]).all() and (shifted[0, :, :5] == 128).all()


def test_color_jitter_has_the_range_of_each_field_and_no_other_effect():
    rgb_thwc = np.full((1, 2, 2, 3), (200, 100, 50), np.uint8)
    none = dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    saturations = []
    for seed in range(200):
        changed = color_jitter(
            ColorJitterConfig(**none | {"saturation": 0.3}), rgb_thwc.copy(), 3, np.random.default_rng(seed)
        )
        saturations.append(np.ptp(changed[0, 0, 0].astype(int)) / 150)
    assert 0.69 < min(saturations) < 0.73 and 1.27 < max(saturations) < 1.31
    turned = color_jitter(
        ColorJitterConfig(**none | {"hue": 0.5}), rgb_thwc.copy(), 3, np.random.default_rng(0)
    )
    assert turned.max() == 200 and turned.min() == 50 and (turned != rgb_thwc).any()
    with pytest.raises(ConfigError) as error:
        ColorJitterConfig(hue=0.6)
    assert error.value.key.endswith("hue")


def augmented(config, clip_thwc, rgb_channels, seed):
    return config.augment(clip_thwc.copy(), rgb_channels, np.random.default_rng(seed))


def test_rand_augment_does_the_same_to_all_frames_and_every_operation_occurs(monkeypatch):
    clip_thwc = np.repeat(a_clip(frames=1), 3, axis=0)
    done = set()
    for name in COLORS:
        monkeypatch.setitem(COLORS, name, partial(lambda name, *args: done.add(name), name))
    for name, move in MOVES.items():
        monkeypatch.setitem(MOVES, name, partial(lambda name, move, s: done.add(name) or move(s), name, move))
    for seed in range(100):
        changed = augmented(RandAugmentConfig(), clip_thwc, 3, seed)
        assert changed.shape == clip_thwc.shape and changed.dtype == np.uint8
    assert done == {*OPERATIONS} - {"nothing"}


@pytest.mark.parametrize(("channels", "rgb_channels"), [(3, 3), (5, 3), (2, 0)])
def test_rand_augment_moves_rgb_and_flow_alike_and_leaves_the_colours_of_flow(channels, rgb_channels):
    clip_thwc = np.repeat(a_clip(frames=1, channels=channels), 3, axis=0)
    changes = 0
    for seed in range(40):
        changed = augmented(RandAugmentConfig(operations=1, magnitude=15), clip_thwc, rgb_channels, seed)
        assert (changed == changed[:1]).all()
        np.testing.assert_array_equal(
            changed, augmented(RandAugmentConfig(operations=1, magnitude=15), clip_thwc, rgb_channels, seed)
        )
        if rgb_channels:
            rgb = augmented(
                RandAugmentConfig(operations=1, magnitude=15), clip_thwc[..., :3], rgb_channels, seed
            )
            np.testing.assert_array_equal(changed[..., :3], rgb)
        changes += (changed != clip_thwc).any()
    # 5 of 14 operations move; 8 more change colours, and one does nothing.
    assert (8 < changes < 23) if not rgb_channels else changes > 30


@pytest.mark.parametrize(("channels", "rgb_channels"), [(3, 3), (5, 3), (2, 0)])
def test_erasing_replaces_one_rectangle_in_all_frames(channels, rgb_channels):
    clip_thwc = np.full((3, 60, 80, channels), 7, np.uint8)
    areas, aspects, erased_clips = [], [], 0
    for seed in range(200):
        changed = augmented(RandomErasingConfig(), clip_thwc, rgb_channels, seed)
        assert (changed == changed[:1]).all()
        hit = (changed[0] != 7).any(axis=2)
        if not hit.any():
            continue
        erased_clips += 1
        rows, columns = np.flatnonzero(hit.any(axis=1)), np.flatnonzero(hit.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        areas.append(height * width / (60 * 80))
        aspects.append(width / height)
        assert hit.sum() >= 0.98 * height * width  # random values may be 7 by chance
        assert (changed[0][hit][:, rgb_channels:] == 128).all()
        if rgb_channels:
            assert changed[0][hit][:, :3].std() > 40
    assert 75 < erased_clips < 125
    assert 0.015 < min(areas) < 0.05 and 0.35 < max(areas) < 0.42
    assert 0.27 < min(aspects) < 0.45 and 2.2 < max(aspects) < 3.6


def test_erasing_happens_to_the_given_share_of_clips_and_fits():
    clip_thwc = np.full((1, 8, 8, 3), 7, np.uint8)
    assert all(
        (augmented(RandomErasingConfig(probability=0), clip_thwc, 3, seed) == 7).all() for seed in range(9)
    )
    whole = RandomErasingConfig(probability=1, area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert (augmented(whole, clip_thwc, 3, 0) != 7).mean() > 0.9
    never = RandomErasingConfig(probability=1, area=(1.0, 1.0), aspect=(2.0, 2.0))
    assert (augmented(never, clip_thwc, 3, 0) == 7).all()
    with pytest.raises(ConfigError):
        RandomErasingConfig(area=(0.4, 0.1))
