"""What gives frames by time, whether it is a file or a folder."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kineray.video.pixels import Box


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video stream; ``width`` and ``height`` in pixels as displayed.

    ``duration_s`` runs from the first presented frame to the end of the last one. ``rotation``: degrees
    (0, 90, 180 or 270) by which the coded picture is turned counterclockwise for display. ``frames`` are
    those that are there, whatever the header says. ``channels``: 3 for RGB, 2 for flow.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    frames: int
    channels: int = 3


class Frame(Protocol):
    """A decoded frame, of which any number of clips take what they want."""

    def pixels(
        self, *, box: Box | None = None, size: tuple[int, int] | None = None, mirror: bool = False
    ) -> np.ndarray:
        """uint8 [h, w, C], upright; to be copied before the next call.

        ``box`` (left, top, width, height in pixels of the upright frame) is cut out first, rounded
        outwards to whole chroma samples; then it is scaled (bilinear) to ``size`` = (height, width); then
        ``mirror`` swaps left and right, and turns the u of flow round: 255 - u. Raises ValueError for a
        box that is not inside the frame.
        """
        ...


class Reader(ABC):
    """A video whose frames are read by time: ``Video``, ``FrameFolder`` or ``FlowFolder``."""

    name: str

    @property
    @abstractmethod
    def info(self) -> VideoInfo:
        """What the source says of itself."""

    @abstractmethod
    def frames_at(self, timestamps_s: np.ndarray) -> Iterator[tuple[list[int], Frame]]:
        """The frames at ``timestamps_s`` (float64 [T], seconds), each once, in one pass over the source.

        Yields (rows, picture): the timestamps, by their places in ``timestamps_s``, at which a frame is
        shown. What was yielded for a row is void if the row comes again. Timestamps before the first frame
        or after the last give the first or the last frame. Raises DecodeError, and ValueError for none.
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

        ``box``, ``size`` and ``mirror`` as in ``Frame.pixels``; ``out`` receives the frames. Raises as
        ``pictures`` and ``pixels``, and ValueError for an ``out`` of another shape.
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
        for rows, picture in self.frames_at(times_s):
            out[rows] = picture.pixels(box=box, size=size, mirror=mirror)
        return out


def checked_times(timestamps_s: Sequence[float] | np.ndarray) -> np.ndarray:
    """Timestamps as float64 [T]. Raises ValueError where there is none, or one that is not a number."""
    times_s = np.asarray(timestamps_s, np.float64)
    if len(times_s) == 0:
        raise ValueError("a clip needs at least one timestamp")
    if np.isnan(times_s).any():
        raise ValueError("a timestamp is not a number")
    return times_s
