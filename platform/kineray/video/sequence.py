"""Every frame of a video file, one after the other."""

from collections.abc import Iterator

import av

from kineray.video import process
from kineray.video.container import Source, damaged, name_of, video_stream
from kineray.video.decode import in_order
from kineray.video.index import PacketIndex

_FRAMES_PER_LIMIT = 64


def every_frame(source: Source, index: PacketIndex) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode ``source``, whose ``index`` this is: (presentation time in its time base, frame as coded).

    Times come in the order in which the decoder gives the frames, which is ascending unless the file is
    damaged. In a child process the time limit of a call is one for every ``_FRAMES_PER_LIMIT`` frames.
    Raises DecodeError, after the frames that are there, for a file that is cut off.
    """
    name = name_of(source)
    with video_stream(source, probe=True) as (container, stream):
        pts = 0
        try:
            frames = in_order(stream, container.demux(stream), index.counted)
            for count, (pts, frame) in enumerate(frames, start=1):
                yield pts, frame
                if count % _FRAMES_PER_LIMIT == 0:
                    _begin_limits_anew()
        except av.FFmpegError as error:
            at_s = float((pts - int(index.shown_pts[0])) * index.time_base)
            raise damaged(name, f"damaged or cut off near {at_s:.2f} s ({error.strerror})") from None
    if index.truncated:
        raise damaged(name)


def _begin_limits_anew() -> None:
    """A video of hours is no video that hangs."""
    if process.shared_memory is not None:  # in a child, which such a signal ends
        process.set_timers(process.CPU_LIMIT_S, process.WALL_LIMIT_S)
