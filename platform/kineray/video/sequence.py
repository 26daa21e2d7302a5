"""Every frame of a video file, one after the other."""

import signal
from collections.abc import Iterator

import av

from kineray.errors import DecodeError
from kineray.video import worker
from kineray.video.container import Source, name_of, video_stream
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
        pts = duration = count = 0
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    break
                for frame in stream.codec_context.decode(packet if packet.size else None):
                    # AVI holds no presentation times; frames leave the decoder in order, one per packet.
                    known = frame.dts if index.counted or frame.pts is None else frame.pts
                    pts = known if known is not None else pts + duration
                    duration = frame.duration or duration
                    yield pts, frame
                    count += 1
                    if count % _FRAMES_PER_LIMIT == 0:
                        _begin_limits_anew()
        except av.FFmpegError as error:
            at_s = float((pts - int(index.shown_pts[0])) * index.time_base)
            raise DecodeError(
                "truncated", f"{name}: damaged or cut off near {at_s:.2f} s ({error.strerror})"
            ) from None
    if index.truncated:
        raise DecodeError("truncated", f"{name}: the file is cut off; copy or download it again")


def _begin_limits_anew() -> None:
    """A video of hours is no video that hangs."""
    if worker.shared_memory is not None:  # in a child, which such a signal ends
        signal.setitimer(signal.ITIMER_PROF, worker.CPU_LIMIT_S)
        signal.setitimer(signal.ITIMER_REAL, worker.WALL_LIMIT_S)
