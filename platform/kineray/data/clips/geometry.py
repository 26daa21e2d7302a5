"""Which part of its video's frames a clip shows, as a value that holds for pixels and for boxes."""

import math
from dataclasses import dataclass

import numpy as np

from kineray.video import Box, scaled_size


@dataclass(frozen=True)
class Geometry:
    """A square cut out of a scaled frame, and perhaps mirrored.

    ``scaled``: (height, width) of the frame after scaling; ``corner``: (top, left) of the square in it;
    ``side``: of the square, in pixels, which are those of the clip; ``mirror``: left and right are exchanged.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    side: int
    mirror: bool = False

    def source_box(self, height: int, width: int) -> Box:
        """The square in pixels of a frame of ``height`` x ``width`` before scaling.

        Its edges are rounded to the nearest pixel; it has one pixel at least.
        """
        top, rows = _pixels(height / self.scaled[0], self.corner[0], self.side)
        left, columns = _pixels(width / self.scaled[1], self.corner[1], self.side)
        return left, top, columns, rows

    def cut(self, scaled_hwc: np.ndarray) -> np.ndarray:
        """The clip's pixels of a frame that is scaled already: [side, side, C], a view."""
        (top, left), side = self.corner, self.side
        cut_hwc: np.ndarray = scaled_hwc[top : top + side, left : left + side]
        return cut_hwc[:, ::-1] if self.mirror else cut_hwc

    def boxes(self, boxes_n4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes of the frame as boxes of the clip: float64 [N, 4], and which of them it shows: bool [N].

        A box is x1, y1, x2, y2, as parts of the sides from 0 to 1, before and after. What lies outside the
        clip is cut off; a box of which nothing remains is not shown. Exact up to the rounding of
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
    """That of a training clip: a random short side, a random square, mirrored half of the time if ``flip``.

    As for SlowFast on Kinetics (arXiv 1812.03982, appendix A). ``height`` and ``width``: of the video's
    frames; ``short_side``: the least and the greatest, in pixels.
    """
    scaled = scaled_size(height, width, int(rng.integers(*short_side, endpoint=True)))
    top = int(rng.integers(0, scaled[0] - side, endpoint=True))
    left = int(rng.integers(0, scaled[1] - side, endpoint=True))
    mirror = rng.random() < 0.5  # drawn in any case, so that what follows does not depend on ``flip``
    return Geometry(scaled, (top, left), side, flip and mirror)


def fixed_geometries(height: int, width: int, *, short_side: int, side: int, crops: int) -> list[Geometry]:
    """Those of evaluation: one crop in the centre, or three along the long side from start to end."""
    scaled = scaled_size(height, width, short_side)
    places = (1,) if crops == 1 else (0, 1, 2)
    return [Geometry(scaled, _corner(*scaled, side, place), side) for place in places]


def _pixels(scale: float, first: int, length: int) -> tuple[int, int]:
    """(first, length) of the source pixels under some pixels of a frame that is ``scale`` times smaller."""
    start, stop = round(first * scale), round((first + length) * scale)
    if start == stop:
        start, stop = math.floor(first * scale), math.floor(first * scale) + 1
    return start, stop - start


def _corner(height: int, width: int, side: int, place: int) -> tuple[int, int]:
    """(top, left) of a square crop at the start, centre or end (0, 1, 2) of the frame's long side."""
    top, left = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if place == 1:
        return top, left
    if height > width:
        return (0 if place == 0 else height - side), left
    return top, (0 if place == 0 else width - side)
