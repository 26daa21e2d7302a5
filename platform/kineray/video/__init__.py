"""A file and some timestamps -> uint8 frames."""

from collections.abc import Iterator
from contextlib import contextmanager

from kineray.video.container import Source
from kineray.video.decode import Video, VideoInfo, read_clip
from kineray.video.index import PacketIndex, index_video
from kineray.video.picture import Box, scaled_size

__all__ = [
    "Box",
    "PacketIndex",
    "Source",
    "Video",
    "VideoInfo",
    "index_video",
    "open_video",
    "probe",
    "read_clip",
    "scaled_size",
]


@contextmanager
def open_video(source: Source, *, index: PacketIndex | None = None) -> Iterator[Video]:
    """Open a video to read its ``info`` and frames from it, closing it at the end. Raises DecodeError.

    ``index``: the packet index of this very file, if it is known; otherwise it is made.
    """
    with Video(source, index) as video:
        yield video


def probe(source: Source) -> VideoInfo:
    """Duration, frame rate, size and codec of a video; its first frame is decoded. Raises DecodeError."""
    with open_video(source) as video:
        return video.info
