"""A file and some timestamps -> uint8 frames."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kineray.video.container import Source
from kineray.video.decode import Video, VideoInfo, read_clip
from kineray.video.frames import FlowFolder, FrameFolder, Reader, frames_uri, is_frames_uri, open_frames
from kineray.video.index import PacketIndex, index_video
from kineray.video.picture import Box, scaled_size

__all__ = [
    "Box",
    "FlowFolder",
    "FrameFolder",
    "PacketIndex",
    "Reader",
    "Source",
    "Video",
    "VideoInfo",
    "frames_uri",
    "index_video",
    "is_frames_uri",
    "open_video",
    "probe",
    "read_clip",
    "scaled_size",
]


@contextmanager
def open_video(source: Source, *, index: PacketIndex | None = None) -> Iterator[Reader]:
    """Open a video to read its ``info`` and frames from it, closing it at the end. Raises DecodeError.

    ``source`` may also name a frame folder (``kineray.video.frames``). ``index``: the packet index of this
    very file, if it is known; otherwise it is made.
    """
    if isinstance(source, str | Path) and is_frames_uri(source):
        yield open_frames(source)
        return
    with Video(source, index) as video:
        yield video


def probe(source: Source) -> VideoInfo:
    """Duration, frame rate, size and codec of a video; its first frame is decoded. Raises DecodeError."""
    with open_video(source) as video:
        return video.info
