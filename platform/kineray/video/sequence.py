"""Every frame of a video file, one after the other."""

from collections.abc import Iterator

import av

from kineray.video import process
from kineray.video.container import Source, damaged, name_of, video_stream
from kineray.video.decode import in_order
from kineray.video.index import PacketIndex

_FRAMES_PER_LIMIT = 64


def every_frame(source: Source, index: PacketIndex) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode ``source``: (presentation time in units of ``index.time_base``, frame as coded).

    ``index``: the packet index of ``source``. Times ascend unless the file is damaged. In a decoding process,
    the time limits of a call start again every ``_FRAMES_PER_LIMIT`` frames. Raises DecodeError, after the
    frames that can be decoded, for a file that is cut off.
    """
    name = name_of(source)
    with video_stream(source, probe=True) as (container, stream):
        pts = 0
        try:
            frames = in_order(stream, container.demux(stream), index.counted)
            for count, (pts, frame) in enumerate(frames, start=1):
                yield pts, frame
                if count % _FRAMES_PER_LIMIT == 0:
                    _restart_time_limits()
        except av.FFmpegError as error:
            at_s = float((pts - int(index.shown_pts[0])) * index.time_base)
            raise damaged(name, f"damaged or cut off near {at_s:.2f} s ({error.strerror})") from None
    if index.truncated:
        raise damaged(name)


def _restart_time_limits() -> None:
    """So that decoding a video of hours is not taken for one that hangs."""
    if process.shared_memory is not None:  # elsewhere, the timers' signals would end the program
        process.set_timers(process.CPU_LIMIT_S, process.WALL_LIMIT_S)
