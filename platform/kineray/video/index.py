"""The packets of a video: when each one is presented, and where decoding can start.

An index is made by reading the file once without decoding it, except for one frame, which gives the true
size and rotation. It is small enough to be kept for every video of a data set.
"""

import json
import zlib
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import cast

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
    size_of,
    video_stream,
)
from kineray.video.ending import announced_end_s, avi_slots, ends_early

_KEY, _HIDDEN = 1, 2
_VP8_SHOWN = 0x10  # bit of a packet's first byte; frames without it are only referred to
_SAME_RATE = 1.5  # a header's frame rate that differs by more from the timestamps is not used
VERSION = 3


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The packets of a video stream in decoding order.

    ``size_bytes``: size of the file. ``pts`` int64 [N]: presentation times in units of ``time_base``;
    ``flags`` uint8 [N]: 1 for a key frame, 2 for a packet whose frame is not presented (an edit list hides
    it, other frames only refer to it, or it cannot be decoded). ``last_duration``: duration of the last
    frame in units of ``time_base``. ``rotation``: degrees (0, 90, 180, 270) by which the coded frame of
    ``width`` x ``height`` pixels is rotated counterclockwise for display. ``announced``: number of frames,
    dropped ones included, in the header of an AVI file, otherwise None. ``counted``: the container stores no
    presentation times (AVI), so frames are timed by counting. ``truncated``: the file ends earlier than its
    header says.
    """

    size_bytes: int
    codec: str
    width: int
    height: int
    rotation: int
    fps: float
    time_base: Fraction
    pts: np.ndarray
    flags: np.ndarray
    last_duration: int
    announced: int | None
    counted: bool
    truncated: bool

    @cached_property
    def shown(self) -> np.ndarray:
        """Positions in decoding order of the presented frames, by presentation time: int64 [frames]."""
        visible = np.flatnonzero((self.flags & _HIDDEN) == 0)
        shown: np.ndarray = visible[np.argsort(self.pts[visible], kind="stable")]
        return shown

    @cached_property
    def shown_pts(self) -> np.ndarray:
        """``pts`` of the presented frames, ascending: int64 [frames]."""
        pts: np.ndarray = self.pts[self.shown]
        return pts

    @property
    def frames(self) -> int:
        """Number of frames that are presented."""
        return len(self.shown)

    @property
    def times_s(self) -> np.ndarray:
        """When the frames are presented, in seconds since the first one: float64 [frames]."""
        times_s: np.ndarray = (self.shown_pts - self.shown_pts[0]) * float(self.time_base)
        return times_s

    @property
    def key_frame_times_s(self) -> np.ndarray:
        """When the key frames are presented, in seconds since the first frame: float64 [key frames]."""
        keys = np.flatnonzero(self.flags == _KEY)
        return np.sort(self.pts[keys] - self.shown_pts[0]) * float(self.time_base)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float((int(self.shown_pts[-1] - self.shown_pts[0]) + self.last_duration) * self.time_base)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the frames as displayed."""
        return (self.width, self.height) if self.rotation % 180 == 0 else (self.height, self.width)

    @cached_property
    def is_exact(self) -> bool:
        """Whether packets identify frames: no two of them have the same presentation time."""
        return not self.counted and bool((np.diff(self.shown_pts) > 0).all())

    def key_frame_before(self, position: int) -> int:
        """Position of the last key frame from which the frame of packet ``position`` can be decoded.

        A frame that is decoded after a key frame but presented before it (an open GOP) may refer to frames
        before that key frame, so it needs the previous one.
        """
        keys = self._keys
        last = int(np.searchsorted(keys, position, side="right")) - 1
        while last > 0 and self.pts[keys[last]] > self.pts[position]:
            last -= 1
        return int(keys[last]) if last >= 0 else 0

    @cached_property
    def _keys(self) -> np.ndarray:
        keys: np.ndarray = np.flatnonzero((self.flags & _KEY) != 0)
        return keys

    def to_bytes(self) -> bytes:
        """The index, compressed to a few hundred bytes for a short video; ``from_bytes`` reads it back."""
        head = {
            "version": VERSION,
            "bytes": self.size_bytes,
            "codec": self.codec,
            "size": [self.width, self.height, self.rotation],
            "fps": self.fps,
            "time_base": [self.time_base.numerator, self.time_base.denominator],
            "last_duration": self.last_duration,
            "announced": self.announced,
            "counted": self.counted,
            "truncated": self.truncated,
            "packets": len(self.pts),
        }
        # With a steady rate and a repeating order of frames, the differences compress to almost nothing.
        steps = np.diff(self.pts, prepend=np.int64(0)).astype("<i8")
        return zlib.compress(
            json.dumps(head).encode() + b"\n" + self.flags.tobytes() + steps.tobytes(), level=6
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "PacketIndex":
        """The index that ``to_bytes`` wrote. Raises ValueError for anything else."""
        try:
            head_text, _, arrays = zlib.decompress(data).partition(b"\n")
            head = json.loads(head_text)
            if head["version"] != VERSION:
                raise ValueError(f"packet index of version {head['version']}")
            packets = head["packets"]
            flags = np.frombuffer(arrays, np.uint8, packets)
            pts = np.cumsum(np.frombuffer(arrays, "<i8", packets, offset=packets))
            width, height, rotation = map(int, head["size"])
            index = cls(
                size_bytes=int(head["bytes"]),
                codec=str(head["codec"]),
                width=width,
                height=height,
                rotation=rotation,
                fps=float(head["fps"]),
                time_base=Fraction(*head["time_base"]),
                pts=pts,
                flags=flags,
                last_duration=int(head["last_duration"]),
                announced=None if head["announced"] is None else int(head["announced"]),
                counted=bool(head["counted"]),
                truncated=bool(head["truncated"]),
            )
        except (zlib.error, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"not a packet index: {error}") from None
        if index.frames == 0:
            raise ValueError("not a packet index: no frames")
        return index


def index_video(source: Source) -> PacketIndex:
    """Read every packet of ``source`` and decode its first frame. Raises DecodeError."""
    name = name_of(source)
    with video_stream(source, probe=False) as (container, stream):
        # AVI and ASF store decoding times only.
        counted = container.format.name in ("avi", "asf")
        packets = _scan(name, container, stream, counted)
        first = packets.first or _first_presented(source, name)
        check_size(name, first.width, first.height)
        time_base = Fraction(stream.time_base or Fraction(1, av.time_base))
        step = _usual_duration(packets.durations) or round(1 / (stream.average_rate or 25) / time_base)
        times = packets.times
        if None in times:
            counted, times = True, [step * position for position in range(len(times))]
        pts, flags = np.array(times, np.int64), np.array(packets.flags, np.uint8)
        if not counted and _starts_incomplete(pts, flags):
            flags[pts < (_first_presented(source, name).pts or 0)] |= _HIDDEN
        durations = np.array([duration or step for duration in packets.durations], np.int64)
        end_s = float(int((pts + durations).max()) * time_base)
        size_bytes = size_of(source)
        index = PacketIndex(
            size_bytes=size_bytes,
            codec=stream.codec.canonical_name,
            width=first.width,
            height=first.height,
            rotation=rotation_of(first),
            fps=0.0,
            time_base=time_base,
            pts=pts,
            flags=flags,
            last_duration=step,
            # The table of an MP4 lists what is stored, not what its edit list presents.
            announced=(stream.frames or None) if container.format.name == "avi" else None,
            counted=counted,
            truncated=packets.cut
            or ends_early(source, size_bytes, container.format.name, stream, packets.last_dts, end_s),
        )
        if index.frames == 0:
            raise _no_frames(name, stream, packets.cut)
        slots = avi_slots(source, size_bytes, stream.index) if container.format.name == "avi" else 0
        # A frame that was dropped at the end of an AVI file leaves the one before it on the screen.
        last_duration = max(slots - int(index.shown_pts[-1]), packets.durations[int(index.shown[-1])])
        last_duration = last_duration or _until_end(index, stream) or step
        return replace(index, fps=_rate(stream, index.times_s), last_duration=last_duration)


def _until_end(index: PacketIndex, stream: av.VideoStream) -> int:
    """Duration of a last frame whose packet has none: to the end of the track, or that of the one before."""
    announced_s = announced_end_s(stream)
    last = int(index.shown_pts[-1])
    if announced_s is not None and not index.truncated:
        left = round(announced_s / index.time_base) - last
        if left > 0:
            return left
    return last - int(index.shown_pts[-2]) if index.frames > 1 else 0


@dataclass
class _Packets:
    """What was read from a file; ``first``: the first frame that can be decoded from one packet alone."""

    first: av.VideoFrame | None
    times: list[int | None]
    flags: list[int]
    durations: list[int]
    last_dts: int | None
    cut: bool


def _scan(name: str, container: InputContainer, stream: av.VideoStream, counted: bool) -> _Packets:
    context = stream.codec_context
    longest = MAX_DURATION_S / Fraction(stream.time_base or Fraction(1, av.time_base))
    times: list[int | None] = []
    flags: list[int] = []
    durations: list[int] = []
    first: av.VideoFrame | None = None
    start: int | None = None
    last_dts: int | None = None
    cut = False
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue  # the end of the stream
            if packet.is_corrupt:
                cut = True
                break
            if first is None:
                first = _decode_alone(context, packet)
            time = packet.dts if counted or packet.pts is None else packet.pts
            if time is not None:
                start = time if start is None else start
                if abs(time - start) > longest:
                    raise DecodeError(
                        f"longer than {MAX_DURATION_S // 3600} hours",
                        code="too_long",
                        key=name,
                        remedy="cut it into parts",
                    )
            hidden = packet.is_discard or (context.name == "vp8" and not memoryview(packet)[0] & _VP8_SHOWN)
            times.append(time)
            flags.append((_KEY if packet.is_keyframe else 0) | (_HIDDEN if hidden else 0))
            durations.append(packet.duration or 0)
            last_dts = packet.dts if packet.dts is not None else last_dts
    except av.FFmpegError as error:
        if first is None:
            raise damaged(name, f"its first frame cannot be decoded ({error.strerror})") from None
        cut = True
    if not times:
        raise _no_frames(name, stream, cut)
    return _Packets(first, times, flags, durations, last_dts, cut)


def _starts_incomplete(pts: np.ndarray, flags: np.ndarray) -> bool:
    """Whether the file was cut out of another one and starts with frames that refer to missing ones."""
    return not flags[0] & _KEY or bool((pts[(flags & _HIDDEN) == 0] < pts[0]).any())


def _usual_duration(durations: list[int]) -> int:
    """The median of the durations that are known, in units of the time base; 0 if none is."""
    known = sorted(filter(None, durations))
    return known[len(known) // 2] if known else 0


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
        try:
            for frame in container.decode(stream):
                if frame.pts is not None or frame.dts is not None:
                    return frame
        except av.FFmpegError as error:
            raise damaged(name, f"its first frame cannot be decoded ({error.strerror})") from None
        raise _no_frames(name, stream, cut=True)


def rotation_of(frame: av.VideoFrame) -> int:
    """Degrees (0, 90, 180, 270) by which ``frame`` is rotated counterclockwise for display."""
    return round(frame.rotation / 90) * 90 % 360


def _decode_alone(
    context: "av.VideoCodecContext", packet: "av.Packet[av.VideoStream]"
) -> av.VideoFrame | None:
    """The frame of ``packet`` if it needs no other packet, even if an edit list hides it; then a reset."""
    alone = cast("av.Packet[av.VideoStream]", av.Packet(bytes(packet))) if packet.is_discard else packet
    alone.is_keyframe = packet.is_keyframe
    frames = [*context.decode(alone), *context.decode(None)]
    context.flush_buffers()
    return frames[0] if frames else None


def _no_frames(name: str, stream: av.VideoStream, cut: bool) -> DecodeError:
    if cut or stream.frames or len(stream.index_entries):
        return damaged(name, "cut off before its first frame")
    return DecodeError("the video stream holds no frames", code="empty", key=name)
