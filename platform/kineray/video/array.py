"""Frames that are in memory already, read like those of a file."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from kineray.video.pixels import Box, Converter
from kineray.video.reader import Reader, VideoInfo, checked_times

_TOLERANCE_S = 1e-6  # absorbs the rounding of timestamps held in floats, as for video files


class FrameArray(Reader):
    """RGB frames, uint8 [T, H, W, 3]; frame k, counted from 0, is shown from k / fps to (k + 1) / fps s.

    Raises ValueError for an array of another type or shape, or one without frames.
    """

    name = "the array of frames"

    def __init__(self, frames_thwc: np.ndarray, fps: float) -> None:
        if frames_thwc.dtype != np.uint8 or frames_thwc.ndim != 4 or frames_thwc.shape[-1] != 3:
            raise ValueError(f"expected uint8 [T, H, W, 3], not {frames_thwc.dtype} {frames_thwc.shape}")
        if not all(frames_thwc.shape):
            raise ValueError(f"holds no frames: its shape is {frames_thwc.shape}")
        self._frames_thwc, self._fps = frames_thwc, fps

    @property
    def info(self) -> VideoInfo:
        """Properties of the frames."""
        count, height, width, _ = self._frames_thwc.shape
        return VideoInfo(
            duration_s=count / self._fps,
            fps=self._fps,
            width=width,
            height=height,
            rotation=0,
            codec="rawvideo",
            frames=count,
        )

    def frames_at(self, timestamps_s: np.ndarray) -> Iterator[tuple[list[int], "_ArrayFrame"]]:
        """See ``Reader.frames_at``."""
        numbers = np.floor((checked_times(timestamps_s) + _TOLERANCE_S) * self._fps)
        rows: dict[int, list[int]] = defaultdict(list)
        for row, number in enumerate(numbers.clip(0, len(self._frames_thwc) - 1)):
            rows[int(number)].append(row)
        converter = Converter()
        for number in sorted(rows):
            frame_hwc = np.ascontiguousarray(self._frames_thwc[number])
            yield rows[number], _ArrayFrame(av.VideoFrame.from_ndarray(frame_hwc, format="rgb24"), converter)


@dataclass(frozen=True)
class _ArrayFrame:
    """A ``Frame`` of an array."""

    frame: av.VideoFrame
    converter: Converter

    def pixels(
        self, *, box: Box | None = None, size: tuple[int, int] | None = None, mirror: bool = False
    ) -> np.ndarray:
        return self.converter.pixels(self.frame, box=box, size=size, mirror=mirror)
