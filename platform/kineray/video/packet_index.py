"""The packets of a video: when each one is presented, and where decoding can start.

An index is small enough to be kept for every video of a data set.
"""

import json
import zlib
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

KEY, HIDDEN, DAMAGED = 1, 2, 4
VERSION = 6


@dataclass(frozen=True, eq=False)
class PacketIndex:
    """The packets of a video stream in decoding order.

    ``size_bytes``: size of the file. ``pts`` int64 [N]: presentation times in units of ``time_base``;
    ``flags`` uint8 [N]: 1 for a key frame, 2 for a packet whose frame is not presented (an edit list hides
    it, other frames only refer to it, or it cannot be decoded), 4 for damaged data. ``last_duration``:
    duration of the last frame in units of ``time_base``. ``rotation``: degrees (0, 90, 180, 270) by which
    the coded frame of ``width`` x ``height`` pixels is rotated counterclockwise for display; ``mirrored``:
    whether left and right are swapped then. ``pixel_aspect``: width of a pixel of the coded frame over its
    height. ``announced``: number of frames, dropped ones included, in the header of an AVI file, otherwise
    None. ``counted``: the container stores no presentation times (AVI), so frames are timed by counting.
    ``joined``: the clock of the file starts anew in it, as several files were put together, and ``pts`` go
    on there. ``truncated``: the file ends earlier than its header says.
    """

    size_bytes: int
    codec: str
    width: int
    height: int
    rotation: int
    mirrored: bool
    pixel_aspect: Fraction
    fps: float
    time_base: Fraction
    pts: np.ndarray
    flags: np.ndarray
    last_duration: int
    announced: int | None
    counted: bool
    joined: bool
    truncated: bool

    @cached_property
    def shown(self) -> np.ndarray:
        """Positions in decoding order of the presented frames, by presentation time: int64 [frames]."""
        visible = np.flatnonzero((self.flags & HIDDEN) == 0)
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
        keys = np.flatnonzero((self.flags & (KEY | HIDDEN)) == KEY)
        return np.sort(self.pts[keys] - self.shown_pts[0]) * float(self.time_base)

    @property
    def duration_s(self) -> float:
        """Seconds from the first frame to the end of the last one."""
        return float((int(self.shown_pts[-1] - self.shown_pts[0]) + self.last_duration) * self.time_base)

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the frames as displayed."""
        return (self.width, self.height) if self.rotation % 180 == 0 else (self.height, self.width)

    @property
    def format(self) -> tuple[object, ...]:
        """What all frames have in common, by which another file is recognised."""
        return (self.codec, self.width, self.height, self.rotation, self.mirrored, self.time_base)

    @property
    def upright_pixel_aspect(self) -> Fraction:
        """Width of a pixel of the frames as displayed over its height."""
        return self.pixel_aspect if self.rotation % 180 == 0 else 1 / self.pixel_aspect

    @cached_property
    def is_exact(self) -> bool:
        """Whether packets identify frames: no two of them have the same presentation time."""
        return not self.counted and not self.joined and bool((np.diff(self.shown_pts) > 0).all())

    def is_key(self, position: int) -> bool:
        """Whether the packet at ``position`` can be decoded alone."""
        return bool(self.flags[position] & KEY)

    def is_hidden(self, position: int) -> bool:
        """Whether the frame of the packet at ``position`` is not presented."""
        return bool(self.flags[position] & HIDDEN)

    def key_frame_before(self, position: int) -> int:
        """Position of the last key frame from which the frame of packet ``position`` can be decoded.

        A frame that is decoded after a key frame but presented before it (an open GOP) may refer to frames
        before that key frame, so it needs the previous one.
        """
        keys = self.keys
        last = int(np.searchsorted(keys, position, side="right")) - 1
        while last > 0 and self.pts[keys[last]] > self.pts[position]:
            last -= 1
        return int(keys[last]) if last >= 0 else 0

    @cached_property
    def keys(self) -> np.ndarray:
        """Positions of the packets that can be decoded alone: int64 [keys]."""
        keys: np.ndarray = np.flatnonzero((self.flags & KEY) != 0)
        return keys

    def to_bytes(self) -> bytes:
        """The index, compressed to a few hundred bytes for a short video; ``from_bytes`` reads it back."""
        head = {
            "version": VERSION,
            "bytes": self.size_bytes,
            "codec": self.codec,
            "size": [self.width, self.height, self.rotation],
            "mirrored": self.mirrored,
            "pixel_aspect": [self.pixel_aspect.numerator, self.pixel_aspect.denominator],
            "fps": self.fps,
            "time_base": [self.time_base.numerator, self.time_base.denominator],
            "last_duration": self.last_duration,
            "announced": self.announced,
            "counted": self.counted,
            "joined": self.joined,
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
                mirrored=bool(head["mirrored"]),
                pixel_aspect=Fraction(*head["pixel_aspect"]),
                fps=float(head["fps"]),
                time_base=Fraction(*head["time_base"]),
                pts=pts,
                flags=flags,
                last_duration=int(head["last_duration"]),
                announced=None if head["announced"] is None else int(head["announced"]),
                counted=bool(head["counted"]),
                joined=bool(head["joined"]),
                truncated=bool(head["truncated"]),
            )
        except (zlib.error, KeyError, TypeError, ZeroDivisionError) as error:
            raise ValueError(f"not a packet index: {error}") from None
        if index.frames == 0:
            raise ValueError("not a packet index: no frames")
        return index
