"""One decoded frame -> a box of it, scaled, rotated, mirrored, as RGB or luma."""

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.video.pixels import Converter, scaled_size

CHROMA = {  # format -> (columns, rows) of pixels that share a chroma sample
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "gray": (1, 1),
    "nv12": (2, 2),
    "gbrp": (1, 1),
    "rgb24": (1, 1),
    "yuv420p10le": (2, 2),
}
LUMA = {"601": (0.299, 0.114), "709": (0.2126, 0.0722)}  # weights of red and blue
COLORSPACES = {1: "709", 2: "601", 5: "601", 6: "601"}  # as libav numbers them; 2: not said
FULL = 2
BT601 = np.array([0.299, 0.587, 0.114])


def smooth(height, width, seed=0):
    """uint8 [H, W, 3] without sharp edges, and without a symmetry that turning or mirroring would keep."""
    coarse = torch.from_numpy(np.random.default_rng(seed).uniform(0, 255, (1, 3, 4, 4)))
    image = F.interpolate(coarse, (96, 96), mode="bicubic", align_corners=True)[0, :, :height, :width]
    return image.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def frame_of(image, pixel_format):
    return av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pixel_format)


def converted(frame, size=None, **options):
    return Converter().pixels(frame, size=size or (frame.height, frame.width), **options)


def moved(image, box, mirror, rotation):
    """The same crop, rotation and mirroring by NumPy, of the whole coded frame."""
    left, top, width, height = box
    upright = np.rot90(image, rotation // 90)[top : top + height, left : left + width]
    return upright[:, ::-1] if mirror else upright


def distance(a, b):
    return np.abs(a.astype(float) - b.astype(float))


@st.composite
def boxes(draw, width, height, grid=1):
    left = draw(st.integers(0, width // grid - 1)) * grid
    top = draw(st.integers(0, height // grid - 1)) * grid
    box_width = draw(st.integers(1, (width - left) // grid)) * grid
    return left, top, box_width, draw(st.integers(1, (height - top) // grid)) * grid


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "gray", "gbrp"])
@settings(max_examples=25, deadline=None)
@given(data=st.data(), mirror=st.booleans(), rotation=st.sampled_from([0, 90, 180, 270]))
def test_a_box_of_whole_chroma_samples_is_cut_exactly(pixel_format, data, mirror, rotation):
    frame = frame_of(smooth(48, 64), pixel_format)
    width, height = (64, 48) if rotation % 180 == 0 else (48, 64)
    box = data.draw(boxes(width, height, grid=2))
    cut = converted(frame, (box[3], box[2]), box=box, mirror=mirror, rotation=rotation)
    np.testing.assert_array_equal(cut, moved(converted(frame), box, mirror, rotation))


@pytest.mark.parametrize("pixel_format", CHROMA)
@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    width=st.integers(1, 67),
    height=st.integers(1, 67),
    mirror=st.booleans(),
    rotation=st.sampled_from([0, 90, 180, 270]),
)
def test_any_box_of_any_frame_is_cut_within_a_pixel(pixel_format, data, width, height, mirror, rotation):
    frame = frame_of(smooth(height, width), pixel_format)
    turned = (width, height) if rotation % 180 == 0 else (height, width)
    box = data.draw(boxes(*turned))
    cut = converted(frame, (box[3], box[2]), box=box, mirror=mirror, rotation=rotation)
    wanted = moved(converted(frame), box, mirror, rotation)
    # The steepest slope of the image is 10 levels in a pixel; a chroma sample spans two.
    assert distance(cut, wanted).max() <= (1 if CHROMA[pixel_format] == (1, 1) else 30)


@pytest.mark.parametrize("pixel_format", CHROMA)
@pytest.mark.parametrize("size", [(30, 40), (45, 31), (90, 120), (61, 81)])
def test_scaling_is_bilinear_with_antialiasing(pixel_format, size):
    frame = frame_of(smooth(64, 80, seed=1), pixel_format)
    box = (8, 4, 60, 48)
    scaled = converted(frame, size, box=box)
    cut = torch.from_numpy(moved(converted(frame), box, False, 0).copy()).permute(2, 0, 1)[None].float()
    wanted = F.interpolate(cut, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    error, grey_error = distance(scaled, wanted), distance(scaled @ BT601, wanted @ BT601)
    if pixel_format.startswith("yuv") and not pixel_format.endswith("10le"):
        # Two pixels get one chroma sample, and libswscale's fast path to RGB is a level too dark.
        assert error.mean() < 3 and error.max() < 12
        assert grey_error.mean() < 1.6 and grey_error.max() < 4
    else:
        assert error.mean() < 0.5 and error.max() < 3


def test_fine_detail_is_averaged_not_subsampled():
    """Every other column is white: picking pixels would give black or white, or stripes."""
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    for pixel_format in ("yuv444p", "gray", "gbrp"):
        grey = converted(frame_of(stripes, pixel_format), (16, 32))[:, 1:-1]  # the edges see a stripe less
        assert distance(grey, np.full_like(grey, 127)).max() < 4


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    rotation=st.sampled_from([0, 90, 180, 270]),
)
def test_mirroring_after_scaling(data, size, rotation):
    frame = frame_of(smooth(48, 64, seed=2), "yuv420p")
    box = data.draw(boxes(*((64, 48) if rotation % 180 == 0 else (48, 64))))
    plain = converted(frame, size, box=box, rotation=rotation)
    mirrored = converted(frame, size, box=box, rotation=rotation, mirror=True)
    if rotation or size[1] % 2 == 0:
        np.testing.assert_array_equal(mirrored, plain[:, ::-1])
    else:  # chroma in pairs of columns cannot be mirrored, so every pixel gets its own
        assert distance(mirrored, plain[:, ::-1]).mean() < 6


def yuv_of(rgb, matrix, full):
    """uint8 [...] luma and both chromas by the standard's formula."""
    red, blue = LUMA[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    u, v = (rgb[..., 2] - luma) / (2 * (1 - blue)), (rgb[..., 0] - luma) / (2 * (1 - red))
    if not full:
        luma, u, v = 16 + luma * 219 / 255, u * 224 / 255, v * 224 / 255
    return tuple(np.clip(np.round(x), 0, 255).astype(np.uint8) for x in (luma, u + 128, v + 128))


def rgb_of(luma, u, v, matrix, full):
    red, blue = LUMA[matrix]
    luma, u, v = luma.astype(float), u - 128.0, v - 128.0
    if not full:
        luma, u, v = (luma - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    r, b = luma + 2 * (1 - red) * v, luma + 2 * (1 - blue) * u
    return np.stack([r, (luma - red * r - blue * b) / (1 - red - blue), b], axis=-1).clip(0, 255)


@pytest.mark.parametrize("colorspace", COLORSPACES)
@pytest.mark.parametrize("color_range", [0, 1, FULL])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv422p", "yuv444p"])
def test_colours_follow_the_standard(pixel_format, color_range, colorspace):
    """libswscale's fast path to RGB is about a level too dark."""
    matrix = COLORSPACES[colorspace]
    full = color_range == FULL or pixel_format.startswith("yuvj")
    rgb = np.random.default_rng(colorspace).integers(0, 256, (8, 8, 3)).astype(float)
    planes = yuv_of(rgb, matrix, full)
    columns, rows = CHROMA[pixel_format]
    patches = [planes[0].repeat(16, 0).repeat(16, 1)]
    patches += [plane.repeat(16 // rows, 0).repeat(16 // columns, 1) for plane in planes[1:]]
    frame = av.VideoFrame.from_dlpack(tuple(patches), format=pixel_format)
    frame.colorspace, frame.color_range = colorspace, color_range
    wanted = rgb_of(*planes, matrix, full)
    for size in ((128, 128), (64, 64), (256, 256)):
        middle = slice(size[0] // 16, None, size[0] // 8)
        for mirror in (False, True):
            patch = converted(frame, size, mirror=mirror)[:, :: -1 if mirror else 1][middle, middle]
            error = patch - wanted
            assert -1.6 < error.mean() < 0.2
            assert np.abs(error).max() < 5
        luma = converted(frame, size, luma=True)[middle, middle]
        assert distance(luma, planes[0]).max() <= 1


@pytest.mark.parametrize("pixel_format", ["gray", "rgb24", "rgba", "gbrp", "yuvj420p", "gray16le"])
def test_grey_values_survive(pixel_format):
    """Flow is stored as grey images, so every value matters."""
    values = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(4, 0).repeat(4, 1)
    frame = frame_of(np.stack([values] * 3, axis=-1), pixel_format)
    tolerance = 1 if pixel_format == "gray16le" else 0
    luma = converted(frame, luma=True)
    assert luma.shape == (64, 64) and distance(luma, values).max() <= tolerance
    box = (8, 12, 30, 20)
    cut = converted(frame, (20, 30), luma=True, box=box, mirror=True)
    assert distance(cut, values[12:32, 8:38][:, ::-1]).max() <= tolerance
    turned = converted(frame, (30, 20), luma=True, box=(12, 8, 20, 30), rotation=90)
    assert distance(turned, np.rot90(values)[8:38, 12:32]).max() <= tolerance


def test_a_converter_accepts_frames_of_all_kinds():
    converter = Converter()
    for pixel_format in [*CHROMA, *reversed(CHROMA)]:
        for shape, size in (((48, 64), (20, 30)), ((32, 32), (40, 40)), ((48, 64), (48, 64))):
            frame = frame_of(smooth(*shape), pixel_format)
            pixels = converter.pixels(frame, size=size, mirror=True)
            np.testing.assert_array_equal(pixels, converted(frame, size, mirror=True))


@pytest.mark.parametrize(
    "box", [(-1, 0, 9, 9), (0, -1, 9, 9), (60, 0, 9, 9), (0, 40, 9, 9), (5, 5, 0, 9), (5, 5, 9, -1)]
)
def test_a_box_beyond_the_frame_is_refused(box):
    frame = frame_of(smooth(48, 64), "yuv420p")
    with pytest.raises(ValueError, match=r"is not inside the frame of 64x48 pixels"):
        converted(frame, (9, 9), box=box)
    turned = (box[1], box[0], box[3], box[2])
    with pytest.raises(ValueError, match=r"is not inside the frame of 48x64 pixels"):
        converted(frame, (9, 9), box=turned, rotation=270)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000))
def test_scaled_size_keeps_the_aspect_ratio(height, width, side):
    new_height, new_width = scaled_size(height, width, side)
    assert min(new_height, new_width) == side
    assert new_height == max(round(height * side / min(height, width)), 1)
    assert new_width == max(round(width * side / min(height, width)), 1)


def test_scaled_size_refuses_a_side_of_zero():
    with pytest.raises(ValueError, match="short_side"):
        scaled_size(10, 10, 0)
