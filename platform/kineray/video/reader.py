"""The interface of everything that gives frames by time: video files and folders of frames."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kineray.video.pixels import Box


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video; ``width`` and ``height``: pixels as displayed.

    ``duration_s``: seconds from the first presented frame to the end of the last one. ``rotation``: degrees
    (0, 90, 180 or 270) by which the coded frame is rotated counterclockwise for display; ``mirrored``:
    whether left and right are swapped then. ``frames``: number of frames that exist, whatever the header
    says. ``channels``: 3 for RGB, 2 for flow. ``pixel_aspect``: width of a displayed pixel over its height;
    frames are read as they are coded, so a player shows those of a video with 2.0 twice as wide.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    frames: int
    channels: int = 3
    mirrored: bool = False
    pixel_aspect: float = 1.0


class Frame(Protocol):
    """A decoded frame, from which any number of clips take the pixels they need."""

    def pixels(
        self, *, box: Box | None = None, size: tuple[int, int] | None = None, mirror: bool = False
    ) -> np.ndarray:
        """The pixels of a part of the frame: uint8 [h, w, C], upright. Copy them before the next call.

        First, ``box`` (left, top, width, height in pixels of the upright frame) is cropped, rounded outwards
        to whole chroma samples; then it is scaled (bilinear) to ``size`` = (height, width); then ``mirror``
        swaps left and right, and reverses the u of flow: 255 - u. Raises ValueError for a box that is not
        inside the frame.
        """
        ...


class Reader(ABC):
    """A video whose frames are read by time: ``Video``, ``FrameFolder``, ``FlowFolder`` or ``FrameArray``."""

    name: str

    @property
    @abstractmethod
    def info(self) -> VideoInfo:
        """Properties of the video."""

    @abstractmethod
    def frames_at(self, timestamps_s: np.ndarray) -> Iterator[tuple[list[int], Frame]]:
        """The frames at ``timestamps_s`` (float64 [T], seconds), each once, in one pass over the source.

        Yields (rows, frame); ``rows``: the positions in ``timestamps_s`` at which ``frame`` is shown. If a
        row is yielded again, the later frame replaces the earlier one. Timestamps before the first frame or
        after the last give the first or the last frame. Raises DecodeError, and ValueError for no timestamps
        or NaN.
        """

    def read(
        self,
        timestamps_s: Sequence[float] | np.ndarray,
        *,
        box: Box | None = None,
        size: tuple[int, int] | None = None,
        mirror: bool = False,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Frames at ``timestamps_s`` (seconds, any order, may repeat): uint8 [T, h, w, C], upright.

        ``box``, ``size`` and ``mirror`` as in ``Frame.pixels``; ``out``: the array to write the frames into.
        Raises as ``frames_at`` and ``pixels``, and ValueError for an ``out`` of another shape.
        """
        times_s = checked_times(timestamps_s)
        info = self.info
        if size is None:
            size = (box[3], box[2]) if box else (info.height, info.width)
        shape = (len(times_s), *size, info.channels)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape:
            raise ValueError(f"out has the shape {out.shape}, not {shape}")
        for rows, frame in self.frames_at(times_s):
            out[rows] = frame.pixels(box=box, size=size, mirror=mirror)
        return out


def checked_times(timestamps_s: Sequence[float] | np.ndarray) -> np.ndarray:
    """Timestamps as float64 [T]. Raises ValueError for no timestamps or NaN."""
    times_s = np.asarray(timestamps_s, np.float64)
    if len(times_s) == 0:
        raise ValueError("a clip needs at least one timestamp")
    if np.isnan(times_s).any():
        raise ValueError("a timestamp is not a number")
    return times_s
