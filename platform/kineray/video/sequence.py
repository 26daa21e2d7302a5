"""Every frame of a video file, one after the other, with the times that its packet index gives them."""

from collections.abc import Iterator

import av

from kineray.errors import DecodeError
from kineray.video import process
from kineray.video.container import Source, damaged, name_of, plain_copy, video_stream
from kineray.video.losses import Losses
from kineray.video.packet_index import PacketIndex

_FRAMES_PER_LIMIT = 64
# How many frames may be decoded before a frame and presented after it. Other codecs have one kind of B-frame.
_REORDERED = {"h264": 16, "hevc": 16}


def every_frame(source: Source, index: PacketIndex, losses: Losses) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode ``source``: (presentation time in units of ``index.time_base``, frame as coded).

    ``index``: the packet index of ``source``; frames that are lost are left out and added to ``losses``. In a
    decoding process, the time limits of a call start again every ``_FRAMES_PER_LIMIT`` frames. Raises
    DecodeError, after the frames that can be decoded, for a file that is cut off.
    """
    name = name_of(source)
    with video_stream(source, probe=True) as (container, stream):
        frames = in_order(name, stream, container.demux(stream), index, losses)
        for count, timed in enumerate(frames, start=1):
            yield timed
            if count % _FRAMES_PER_LIMIT == 0:
                _restart_time_limits()
    if index.truncated:
        raise damaged(name)


def in_order(
    name: str,
    stream: av.VideoStream,
    packets: Iterator["av.Packet[av.VideoStream]"],
    index: PacketIndex,
    losses: Losses,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(presentation time in units of ``index.time_base``, frame) of the whole stream of ``packets``.

    The index is the only clock: a packet goes into the decoder with its position in place of its time.
    Frames that are lost are left out, and added to ``losses``. Raises DecodeError if there are more packets
    than in the index.
    """
    clock = _CountingClock(stream, index) if index.counted else _Clock(index)
    context = stream.codec_context
    position = 0
    for packet in packets:
        if packet.size:
            if position >= len(index.pts):
                if index.truncated:
                    return  # a packet that is not complete
                raise not_as_indexed(name)
            if packet.is_discard and not index.is_hidden(position):
                packet = plain_copy(packet)  # noqa: PLW2901 - libav hides what is presented
            packet.pts = position
            clock.decoding(position)
            position += 1
        try:
            frames = context.decode(packet if packet.size else None)
        except av.FFmpegError:
            losses.add(max(position - 1, 0))
            continue
        for frame in frames:
            pts = clock.time_of(frame.pts)
            if pts is not None and frame.is_corrupt:  # what is missing was concealed by the decoder
                losses.add(max(position - 1, 0) if frame.pts is None else frame.pts)
            if pts is not None and (frame.pts is None or frame.pts not in losses):
                yield pts, frame


class _Clock:
    """The times that the packets have."""

    def __init__(self, index: PacketIndex) -> None:
        self._index = index

    def decoding(self, position: int) -> None:
        """The packet at ``position`` goes into the decoder next."""

    def time_of(self, position: int | None) -> int | None:
        """When the frame of the packet at ``position`` is presented; None if it is not."""
        if position is None or self._index.is_hidden(position):
            return None
        return int(self._index.pts[position])


class _CountingClock(_Clock):
    """The n-th frame that leaves the decoder has the n-th time, as long as no frame before it was dropped."""

    def __init__(self, stream: av.VideoStream, index: PacketIndex) -> None:
        super().__init__(index)
        context = stream.codec_context
        self._reordered = _REORDERED.get(context.name, 1) if context.has_b_frames else 0
        self._inside: list[int] = []  # positions of packets in the decoder
        self._rank = 0

    def decoding(self, position: int) -> None:
        if not self._index.is_hidden(position):
            self._inside.append(position)

    def time_of(self, position: int | None) -> int | None:
        if position in self._inside:
            self._inside.remove(position)
            self._drop_before(position)
        elif position is not None:
            return None
        self._rank += 1
        return int(self._index.shown_pts[min(self._rank, self._index.frames) - 1])

    def _drop_before(self, position: int) -> None:
        """Count the packets of which no frame will come: too many come first, or a key frame came out."""
        before = [earlier for earlier in self._inside if earlier < position]
        if not self._index.is_key(position):
            before = before[: max(len(before) - self._reordered, 0)]
        self._inside = [kept for kept in self._inside if kept not in before]
        self._rank += len(before)


def not_as_indexed(name: str) -> DecodeError:
    """The error (``wrong_frame_count``) of a file that is not the one whose index was given."""
    return DecodeError(
        "not the file that was indexed",
        code="wrong_frame_count",
        key=name,
        remedy="validate the data set again",
    )


def _restart_time_limits() -> None:
    """So that decoding a video of hours is not taken for one that hangs."""
    if process.shared_memory is not None:  # elsewhere, the timers' signals would end the program
        process.set_timers(process.CPU_LIMIT_S, process.WALL_LIMIT_S)
