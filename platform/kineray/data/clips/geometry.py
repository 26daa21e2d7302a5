"""Which part of the frames of a video a clip shows, as a value that applies to pixels and to boxes."""

import math
from dataclasses import dataclass

import numpy as np

from kineray.video import Box, scaled_size


@dataclass(frozen=True)
class Geometry:
    """A square that is cut out of a scaled frame, and may be mirrored.

    ``scaled``: (height, width) of the frame after scaling, which may change its aspect ratio; ``corner``:
    (top, left) of the square in it; ``side``: of the square in pixels, and so of the clip; ``mirror``:
    whether left and right are swapped.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    side: int
    mirror: bool = False

    def source_box(self, height: int, width: int) -> Box:
        """The square in the pixels of a frame of ``height`` x ``width`` before scaling.

        Its edges are rounded to the nearest pixel; it is at least one pixel wide and high.
        """
        top, rows = _pixels(height / self.scaled[0], self.corner[0], self.side)
        left, columns = _pixels(width / self.scaled[1], self.corner[1], self.side)
        return left, top, columns, rows

    def cut(self, scaled_hwc: np.ndarray) -> np.ndarray:
        """The pixels of the clip in a scaled frame: [side, side, C], a view."""
        (top, left), side = self.corner, self.side
        cut_hwc: np.ndarray = scaled_hwc[top : top + side, left : left + side]
        return cut_hwc[:, ::-1] if self.mirror else cut_hwc

    def boxes(self, boxes_n4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the frame as boxes of the clip, float64 [N, 4], and whether the clip shows them, bool [N].

        A box is x1, y1, x2, y2, as fractions of the sides, of the frame and of the clip. What lies outside
        the clip is cut off; a box of which nothing remains is not shown. Exact up to the rounding of
        ``source_box``, half a pixel of the source.
        """
        (height, width), (top, left) = self.scaled, self.corner
        scale, offset = np.array([width, height] * 2), np.array([left, top] * 2)
        moved_n4 = (np.asarray(boxes_n4, np.float64).reshape(-1, 4) * scale - offset) / self.side
        if self.mirror:
            moved_n4[:, [0, 2]] = 1 - moved_n4[:, [2, 0]]
        moved_n4 = moved_n4.clip(0, 1)
        shown_n = (moved_n4[:, 0] < moved_n4[:, 2]) & (moved_n4[:, 1] < moved_n4[:, 3])
        return moved_n4, shown_n


def random_geometry(
    height: int, width: int, *, short_side: tuple[int, int], side: int, flip: bool, rng: np.random.Generator
) -> Geometry:
    """The geometry of a training clip: a random short side and square, mirrored half of the time if ``flip``.

    As for SlowFast on Kinetics (arXiv 1812.03982, appendix A). ``height``, ``width``: of the frames of the
    video; ``short_side``: minimum and maximum in pixels.
    """
    scaled = scaled_size(height, width, int(rng.integers(*short_side, endpoint=True)))
    corner = _random_corner(scaled, side, rng)
    return Geometry(scaled, corner, side, _random_mirror(flip, rng))


def resized_geometry(
    height: int,
    width: int,
    *,
    area: tuple[float, float],
    aspect: tuple[float, float],
    side: int,
    flip: bool,
    rng: np.random.Generator,
) -> Geometry:
    """The geometry of a training clip: a random part of the frame, scaled to a square, as for Inception.

    Szegedy et al., arXiv 1409.4842, section 6. ``area``, ``aspect``: ranges of the part's share of the frame
    and of its width / height; if ten in a row do not fit into the frame, the part is the largest of a
    permitted aspect. The place is uniform, and the clip is mirrored half of the time if ``flip``.
    """
    part = random_extent(height, width, area, aspect, rng)
    if part is None:
        ratio = min(max(width / height, aspect[0]), aspect[1])
        part = min(height, width / ratio), min(width, height * ratio)
    scaled = max(round(height * side / part[0]), side), max(round(width * side / part[1]), side)
    corner = _random_corner(scaled, side, rng)
    return Geometry(scaled, corner, side, _random_mirror(flip, rng))


def random_extent(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[float, float] | None:
    """(height, width) of a random rectangle in a frame, or None if ten in a row do not fit into it.

    ``area``: range of its share of the frame; ``aspect``: range of its width / height, of which the logarithm
    is uniform, as in torchvision's ``RandomResizedCrop``.
    """
    for _ in range(10):
        pixels = height * width * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        rows, columns = math.sqrt(pixels / ratio), math.sqrt(pixels * ratio)
        if rows <= height and columns <= width:
            return rows, columns
    return None


def fixed_geometries(height: int, width: int, *, short_side: int, side: int, crops: int) -> list[Geometry]:
    """The geometries of evaluation: one crop in the centre, or three along the long side."""
    scaled = scaled_size(height, width, short_side)
    positions = (1,) if crops == 1 else (0, 1, 2)
    return [Geometry(scaled, _corner(*scaled, side, position), side) for position in positions]


def _random_corner(scaled: tuple[int, int], side: int, rng: np.random.Generator) -> tuple[int, int]:
    top = int(rng.integers(0, scaled[0] - side, endpoint=True))
    return top, int(rng.integers(0, scaled[1] - side, endpoint=True))


def _random_mirror(flip: bool, rng: np.random.Generator) -> bool:
    mirror = rng.random() < 0.5  # always drawn, so that later random numbers do not depend on ``flip``
    return flip and mirror


def _pixels(scale: float, first: int, length: int) -> tuple[int, int]:
    """(first, length) of the source pixels that some pixels of a ``scale`` times smaller frame show."""
    start, stop = round(first * scale), round((first + length) * scale)
    if start == stop:
        start, stop = math.floor(first * scale), math.floor(first * scale) + 1
    return start, stop - start


def _corner(height: int, width: int, side: int, position: int) -> tuple[int, int]:
    """(top, left) of a square crop at the start, centre or end (0, 1, 2) of the long side of a frame."""
    top, left = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if position == 1:
        return top, left
    if height > width:
        return (0 if position == 0 else height - side), left
    return top, (0 if position == 0 else width - side)
