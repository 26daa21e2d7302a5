"""Makes the packet index of a video file.

The file is read once without decoding it, except for one frame, which gives the true size and rotation.
"""

import struct
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer

from kineray.errors import DecodeError
from kineray.video.container import (
    MAX_DURATION_S,
    Source,
    check_size,
    damaged,
    name_of,
    plain_copy,
    size_of,
    video_stream,
)
from kineray.video.ending import ends_early, last_duration, refuse_second_file
from kineray.video.packet_index import DAMAGED, HIDDEN, KEY, PacketIndex

_COUNTED = frozenset({"avi", "asf"})  # they store decoding times only
_RESTARTING = frozenset({"mpegts", "mpeg"})  # recordings of broadcasts, whose clock may start anew
_GAP_S = 10  # a longer gap is such a new start; ffmpeg's limit
_VP8_SHOWN = 0x10  # bit of a packet's first byte; frames without it are only referred to
_SAME_RATE = 1.5  # a header's frame rate that differs by more from the timestamps is not used


def index_video(source: Source) -> PacketIndex:
    """Read every packet of ``source`` and decode its first frame. Raises DecodeError."""
    name = name_of(source)
    with video_stream(source, probe=False) as (container, stream):
        container_name = container.format.name
        packets = _scan(container, stream)
        if not packets.pts:
            raise _no_frames(name, stream, packets.cut)
        refuse_second_file(source, container, stream, packets.end)
        first = packets.first or _first_presented(source, name)
        check_size(name, first.width, first.height)
        durations = packets.known_durations(stream)
        pts, counted = packets.times(container_name in _COUNTED, int(np.median(durations)))
        flags = np.array(packets.flags, np.uint8)
        if container_name.startswith("mov") and not stream.frames:
            _show_after_start(flags)
        if container_name.startswith("mov") and not flags[0] & KEY and _table_starts_with_key(stream):
            flags[0] |= KEY | DAMAGED  # the parser does not find it in the data
        second, restarts = round(1 / _time_base(stream)), container_name in _RESTARTING
        starts = np.zeros(0, np.int64) if counted else _starts(packets, flags, durations, second, restarts)
        index = PacketIndex(
            size_bytes=size_of(source),
            codec=stream.codec.canonical_name,
            width=first.width,
            height=first.height,
            rotation=rotation_of(first)[0],
            mirrored=rotation_of(first)[1],
            pixel_aspect=_pixel_aspect(stream),
            fps=0.0,
            time_base=_time_base(stream),
            pts=_joined(pts, flags, durations, starts) if len(starts) else pts,
            flags=flags,
            last_duration=0,
            # The table of an MP4 lists what is stored, not what its edit list presents.
            announced=(stream.frames or None) if container_name == "avi" else None,
            counted=counted,
            joined=len(starts) > 0,
            truncated=packets.cut,
        )
        _check_length(name, index)
        if index.frames and not counted and _starts_incomplete(index):
            index.flags[index.pts < (_first_presented(source, name).pts or 0)] |= HIDDEN
        if index.frames == 0:
            raise _no_frames(name, stream, packets.cut)
        if packets.suspects:
            index.flags[_damaged(source, index, packets.suspects)] |= DAMAGED
        end_s = float(int((index.pts + durations).max()) * index.time_base)
        cut = packets.cut or ends_early(source, container, stream, packets.dts[-1], end_s)
        index = replace(index, truncated=cut, fps=_rate(stream, index.times_s))
        last = last_duration(source, container, stream, index, packets.durations)
        return replace(index, last_duration=last)


@dataclass
class _Packets:
    """What was read from a file, in decoding order; times are in units of the stream's time base.

    ``first``: the first frame that can be decoded from one packet alone; ``end``: where
    the last packet ends in the file, in bytes; ``suspects``: positions of the packets near which data is
    missing; ``cut``: the data ends early.
    """

    first: av.VideoFrame | None = None
    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    end: int = 0
    cut: bool = False

    def drop_last(self) -> None:
        """Remove a packet that is not complete."""
        for values in (self.pts, self.dts, self.durations, self.flags, self.suspects):
            values.pop()

    def known_durations(self, stream: av.VideoStream) -> np.ndarray:
        """Duration of each packet, int64 [N]; the usual one where the file contains none."""
        known = [duration for duration in self.durations if duration]
        by_rate = round(1 / (stream.average_rate or 25) / _time_base(stream))
        usual = sorted(known)[len(known) // 2] if known else by_rate
        return np.array([duration or usual for duration in self.durations], np.int64)

    def times(self, counted: bool, step: int) -> tuple[np.ndarray, bool]:
        """Presentation times, int64 [N], whether frames are counted, ``step`` apart if times are missing."""
        both = zip(self.dts, self.pts, strict=True)
        times = [dts if counted or pts is None else pts for dts, pts in both]
        if None in times:
            return step * np.arange(len(times)), True
        return np.array(times, np.int64), counted


def _scan(container: InputContainer, stream: av.VideoStream) -> _Packets:
    packets, context = _Packets(), stream.codec_context
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the end of the stream
            if packet.is_corrupt:
                packets.suspects.append(len(packets.pts))
            if packets.first is None:
                packets.first = _decode_alone(context, packet)
            hidden = packet.is_discard or (context.name == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN)
            packets.pts.append(packet.pts)
            packets.dts.append(packet.dts)
            packets.durations.append(packet.duration or 0)
            packets.end = (packet.pos or 0) + packet.size
            packets.flags.append((KEY if packet.is_keyframe else 0) | (HIDDEN if hidden else 0))
    except av.FFmpegError:
        packets.cut = True
    if len(packets.pts) - 1 in packets.suspects:  # the data ends in a packet
        packets.cut = True
        packets.drop_last()
    return packets


def _table_starts_with_key(stream: av.VideoStream) -> bool:
    return len(stream.index_entries) > 0 and stream.index_entries[0].is_keyframe


def _show_after_start(flags: np.ndarray) -> None:
    """Show the packets of a fragmented MP4 that libav hides because an earlier one has a later time."""
    shown = np.flatnonzero((flags & HIDDEN) == 0)
    if len(shown):
        flags[shown[0] :] &= ~np.uint8(HIDDEN)


def _starts(
    packets: _Packets, flags: np.ndarray, durations: np.ndarray, second: int, restarts: bool
) -> np.ndarray:
    """Positions of the packets with which the clock of the file starts anew: int64.

    As in ffmpeg, that is a key frame whose decoding time is before that of the frame it follows, and after a
    long gap if the format is one that ``restarts``. ``second``: in units of the time base.
    """
    known = np.array([time is not None for time in packets.dts])
    seen = np.flatnonzero(known & ((flags & HIDDEN) == 0))
    steps = np.diff(np.array([time or 0 for time in packets.dts], np.int64)[seen])
    is_key = (flags[seen[1:]] & KEY) != 0
    is_new = (steps < -2 * durations[seen[:-1]]) & (is_key | (steps < -second))
    if restarts:
        is_new |= steps > _GAP_S * second
    starts: np.ndarray = seen[1:][is_new]
    return starts


def _joined(pts: np.ndarray, flags: np.ndarray, durations: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """``pts``, those of every file that was joined after the end of the one before it: int64 [N]."""
    shown = (flags & HIDDEN) == 0
    parts = np.split(np.arange(len(pts)), starts)
    pts, end = pts.copy(), 0
    for number, part in enumerate(parts):
        presented = part[shown[part]]
        if number:
            pts[part] += end - pts[presented].min()
        end = int((pts + durations)[presented].max())
    return pts


def _time_base(stream: av.VideoStream) -> Fraction:
    return Fraction(stream.time_base or Fraction(1, av.time_base))


def _check_length(name: str, index: PacketIndex) -> None:
    if np.ptp(index.pts) * index.time_base > MAX_DURATION_S:
        raise DecodeError(
            f"longer than {MAX_DURATION_S // 3600} hours",
            code="too_long",
            key=name,
            remedy="cut it into parts",
        )


def _starts_incomplete(index: PacketIndex) -> bool:
    """Whether the file was cut out of another one and starts with frames that refer to missing ones."""
    return not index.is_key(0) or bool(index.shown_pts[:1] < index.pts[0])


def _rate(stream: av.VideoStream, times_s: np.ndarray) -> float:
    """Frames per second: the header's if the timestamps confirm it, otherwise theirs; 0 if unknown."""
    header = float(stream.average_rate or 0)
    steps_s = np.diff(times_s)
    steps_s = steps_s[steps_s > 0]
    if len(steps_s) == 0:
        return header
    header = header or float(stream.guessed_rate or 0)
    ratio = header * float(np.median(steps_s))
    return header if 1 / _SAME_RATE < ratio < _SAME_RATE else len(steps_s) / float(steps_s.sum())


def _first_presented(source: Source, name: str) -> av.VideoFrame:
    """The first frame that can be decoded."""
    with video_stream(source, probe=True) as (container, stream):
        for packet in container.demux(stream):
            with suppress(av.FFmpegError):
                for frame in stream.codec_context.decode(packet if packet.size else None):
                    if frame.pts is not None or frame.dts is not None:
                        return frame
    raise damaged(name, "none of its frames can be decoded")


def _damaged(source: Source, index: PacketIndex, suspects: list[int]) -> list[int]:
    """Positions of the packets in which the decoder finds faults, of the suspects and those after them.

    Libav says near which packet of a transport stream data is missing, not always in which one.
    """
    near = {position + after for position in suspects for after in (0, 1)}
    first, bad = index.key_frame_before(suspects[0]), []
    with video_stream(source, probe=True) as (container, stream):
        context = stream.codec_context
        context.options = {**context.options, "err_detect": "explode"}
        packets = (packet for packet in container.demux(stream) if packet.size)
        for position, packet in enumerate(islice(packets, max(near) + 1)):
            if position < first:
                continue
            try:
                context.decode(packet)
            except av.FFmpegError:
                if position in near:
                    bad.append(position)
    return bad


def rotation_of(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees (0, 90, 180, 270) by which ``frame`` is rotated counterclockwise for display, and whether left
    and right are swapped then."""
    rotation = round(frame.rotation / 90) * 90 % 360
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rotation, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(cast(Any, matrix)))
    # A mirror turns what libav takes for the angle by 180 degrees, and the direction of rotation.
    return (rotation, False) if a * d >= b * c else ((180 - rotation) % 360, True)


def _pixel_aspect(stream: av.VideoStream) -> Fraction:
    """Width of a pixel over its height; what the container says goes before what the codec says."""
    return Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)


def _decode_alone(
    context: "av.VideoCodecContext", packet: "av.Packet[av.VideoStream]"
) -> av.VideoFrame | None:
    """The frame of ``packet`` if it needs no other packet, even if an edit list hides it; then a reset."""
    frames: list[av.VideoFrame] = []
    with suppress(av.FFmpegError):
        frames = [*context.decode(plain_copy(packet) if packet.is_discard else packet), *context.decode(None)]
    context.flush_buffers()
    return frames[0] if frames else None


def _no_frames(name: str, stream: av.VideoStream, cut: bool) -> DecodeError:
    if cut or stream.frames or len(stream.index_entries):
        return damaged(name, "cut off before its first frame")
    return DecodeError("the video stream holds no frames", code="empty", key=name)
