"""A file and some timestamps -> uint8 frames."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kineray.video.array import FrameArray
from kineray.video.container import Source
from kineray.video.decode import Video
from kineray.video.frames import (
    FlowFolder,
    FrameFolder,
    frames_uri,
    is_flow_uri,
    is_frames_uri,
    open_frames,
)
from kineray.video.index import index_video
from kineray.video.packet_index import PacketIndex
from kineray.video.pixels import Box, scaled_size
from kineray.video.reader import Frame, Reader, VideoInfo

__all__ = [
    "Box",
    "FlowFolder",
    "Frame",
    "FrameArray",
    "FrameFolder",
    "PacketIndex",
    "Reader",
    "Source",
    "Video",
    "VideoInfo",
    "frames_uri",
    "index_video",
    "is_flow_uri",
    "is_frames_uri",
    "open_video",
    "probe",
    "read_clip",
    "scaled_size",
]


@contextmanager
def open_video(source: Source | Reader, *, index: PacketIndex | None = None) -> Iterator[Reader]:
    """Open a video to read its ``info`` and frames; it is closed at the end. Raises DecodeError.

    ``source`` may also name a frame folder (``kineray.video.frames``), or be a reader, which is returned.
    ``index``: the packet index of this file, if it is known; otherwise the file is indexed.
    """
    if isinstance(source, Reader):
        yield source
        return
    if isinstance(source, str | Path) and is_frames_uri(source):
        yield open_frames(source)
        return
    with Video(source, index) as video:
        yield video


def probe(source: Source) -> VideoInfo:
    """Duration, frame rate, size and codec of a video; its first frame is decoded. Raises DecodeError."""
    with open_video(source) as video:
        return video.info


def read_clip(
    source: Source, timestamps_s: Sequence[float] | np.ndarray, *, short_side: int | None = None
) -> np.ndarray:
    """Decode the frames at ``timestamps_s`` (seconds): uint8 [T, H, W, 3], upright RGB.

    Optical flow has two channels: [T, H, W, 2]. Timestamps come in any order and may repeat; those before
    the first frame or after the last give the first or the last frame. ``short_side`` scales the frames so
    that their short side has this many pixels (bilinear, aspect ratio kept). Raises DecodeError, and
    ValueError for no timestamps, NaN or a ``short_side`` below 1.
    """
    with open_video(source) as video:
        size = None
        if short_side is not None:
            size = scaled_size(video.info.height, video.info.width, short_side)
        return video.read(timestamps_s, size=size)
