"""One decoded frame -> the pixels that a clip needs: cropped, scaled, mirrored, as RGB.

Only the wanted box is read. It is scaled as YUV 4:2:2, which has two thirds of the samples of RGB and the
chroma resolution of libswscale's direct path to RGB; only the result is converted to RGB.
"""

from collections import defaultdict
from typing import Any, TypeAlias, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the upright frame."""

# 8-bit formats with one plane per component -> (columns, rows) of pixels that share a chroma sample.
_PLANAR = {
    "yuv420p": (2, 2),
    "yuvj420p": (2, 2),
    "yuv422p": (2, 1),
    "yuvj422p": (2, 1),
    "yuv444p": (1, 1),
    "yuvj444p": (1, 1),
    "gray": (1, 1),
}


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) after scaling the short side to ``short_side`` pixels; aspect ratio kept.

    Raises ValueError for a ``short_side`` below 1.
    """
    if short_side < 1:
        raise ValueError(f"short_side must be at least 1, not {short_side}")
    shorter = min(height, width)
    return max(round(height * short_side / shorter), 1), max(round(width * short_side / shorter), 1)


_Key: TypeAlias = tuple[Box | None, tuple[int, int]]  # box and size


class Converter:
    """Converts frames of one video; it keeps libswscale's tables for every pair of box and size."""

    def __init__(self) -> None:
        self._tables: defaultdict[_Key, tuple[VideoReformatter, VideoReformatter]] = defaultdict(
            lambda: (VideoReformatter(), VideoReformatter())
        )
        self._other = VideoReformatter()

    def pixels(
        self,
        frame: av.VideoFrame,
        *,
        box: Box | None = None,
        size: tuple[int, int] | None = None,
        mirror: bool = False,
        rotation: int = 0,
        luma: bool = False,
    ) -> np.ndarray:
        """``box`` of the upright frame, scaled to ``size`` (height, width): uint8 [h, w, 3], RGB.

        ``rotation``: degrees by which the coded frame is rotated counterclockwise to be upright; ``box`` is
        in pixels of the upright frame, and is rounded outwards to whole chroma samples, by a pixel at most.
        ``mirror`` swaps left and right. ``luma``: return the luma alone, [h, w]. The array may share the
        memory of ``frame``. Raises ValueError for a box that is not inside the frame.
        """
        if luma:
            frame = _luma(frame)
        elif frame.format.name not in _PLANAR:  # 10 bits, RGB, packed: rare, so converted to RGB first
            frame = self._other.reformat(frame, format="gbrp", threads=1)
        upright = (frame.width, frame.height) if rotation % 180 == 0 else (frame.height, frame.width)
        height, width = size or ((box[3], box[2]) if box else (upright[1], upright[0]))
        scale, to_rgb = self._tables[box, (height, width)]
        if box is not None:
            _check_inside(box, *upright)
            frame = _cropped(frame, _as_coded(box, frame.width, frame.height, rotation))
        coded_size = (height, width) if rotation % 180 == 0 else (width, height)
        if (frame.height, frame.width) != coded_size:
            middle = "yuv422p" if frame.format.name.startswith("yuv") else frame.format.name
            frame = scale.reformat(frame, width=coded_size[1], height=coded_size[0], format=middle, threads=1)
        if mirror and not rotation:
            frame = _mirrored(frame)
        if luma:
            pixels = _plane(frame, 0)
        else:
            frame = to_rgb.reformat(frame, format="rgb24", threads=1)
            plane = frame.planes[0]
            lines = np.frombuffer(cast(Any, plane), np.uint8).reshape(frame.height, plane.line_size)
            pixels = lines[:, : frame.width * 3].reshape(frame.height, frame.width, 3)
        if rotation:
            pixels = np.rot90(pixels, rotation // 90)
            return pixels[:, ::-1] if mirror else pixels
        return pixels


def _plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    plane = frame.planes[index]
    rows = np.frombuffer(cast(Any, plane), np.uint8)[: plane.line_size * plane.height]
    return rows.reshape(plane.height, plane.line_size)[:, : plane.width]


def _from_planes(planes: tuple[np.ndarray, ...], like: av.VideoFrame, name: str) -> av.VideoFrame:
    """A frame that shares the memory of ``planes``, with the colour space and range of ``like``."""
    frame = av.VideoFrame.from_dlpack(planes, format=name)
    frame.colorspace, frame.color_range = like.colorspace, like.color_range
    return frame


def _luma(frame: av.VideoFrame) -> av.VideoFrame:
    if frame.format.name not in _PLANAR:
        frame = frame.reformat(format="gray")
    return _from_planes((_plane(frame, 0),), frame, "gray")


def _cropped(frame: av.VideoFrame, box: Box) -> av.VideoFrame:
    """The part of ``frame`` in ``box``, in the same memory."""
    left, top, width, height = box
    if (left, top, width, height) == (0, 0, frame.width, frame.height):
        return frame
    columns, rows = _PLANAR.get(frame.format.name, (1, 1))
    if left + width > frame.width // columns * columns or top + height > frame.height // rows * rows:
        frame = _with_all_chroma(frame)  # half a chroma sample at the edge
        columns = rows = 1
    name = frame.format.name
    first_column, first_row = left // columns, top // rows
    last_column, last_row = -(-(left + width) // columns), -(-(top + height) // rows)
    planes = [
        _plane(frame, 0)[first_row * rows : last_row * rows, first_column * columns : last_column * columns]
    ]
    for index in range(1, len(frame.planes)):
        planes.append(_plane(frame, index)[first_row:last_row, first_column:last_column])
    return _from_planes(tuple(planes), frame, name)


def _mirrored(frame: av.VideoFrame) -> av.VideoFrame:
    columns, rows = _PLANAR.get(frame.format.name, (1, 1))
    if frame.width % columns or frame.height % rows:
        frame = _with_all_chroma(frame)  # half a chroma sample at the edge
    planes = tuple(_plane(frame, index)[:, ::-1].copy() for index in range(len(frame.planes)))
    return _from_planes(planes, frame, frame.format.name)


def _with_all_chroma(frame: av.VideoFrame) -> av.VideoFrame:
    """``frame`` with a chroma sample for every pixel."""
    full_range = frame.format.name.startswith("yuvj")
    return frame.reformat(format="yuvj444p" if full_range else "yuv444p", threads=1)


def _check_inside(box: Box, width: int, height: int) -> None:
    left, top, w, h = box
    if left < 0 or top < 0 or w < 1 or h < 1 or left + w > width or top + h > height:
        raise ValueError(f"the box {tuple(box)} is not inside the frame of {width}x{height} pixels")


def _as_coded(box: Box, width: int, height: int, rotation: int) -> Box:
    """A box of the upright frame in the coded frame, which has ``width`` x ``height`` pixels."""
    left, top, w, h = box
    match rotation:
        case 90:
            return width - top - h, left, h, w
        case 180:
            return width - left - w, height - top - h, w, h
        case 270:
            return top, height - left - w, h, w
        case _:
            return box
