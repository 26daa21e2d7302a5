"""Frames of a video file by presentation time.

Time zero is the first presented frame. The frame at time t is the last one presented at or before t.
A ``PacketIndex`` tells which packets hold the wanted frames, so decoding starts at the last key frame
before them and ends with the packet of the last one; frames in between that no other frame refers to are
not decoded, and only wanted ones are converted to RGB. A file whose index is not exact is decoded from its
start.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from types import TracebackType
from typing import Self, cast

import av
import numpy as np
from av.video.frame import PictureType

from kineray.errors import DecodeError
from kineray.video.container import Source, damaged, name_of, size_of, video_stream
from kineray.video.index import index_video, rotation_of
from kineray.video.losses import Losses
from kineray.video.packet_index import PacketIndex
from kineray.video.pixels import Box, Converter
from kineray.video.reader import Reader, VideoInfo, checked_times
from kineray.video.sequence import in_order, not_as_indexed

logger = logging.getLogger(__name__)

_TOLERANCE_S = Fraction(1, 1_000_000)  # absorbs the rounding of timestamps held in floats
_AFTER_ALL_FRAMES = 2**62  # a presentation time
_SEEK_GAP = 64  # packets; reading and dropping fewer than these is faster than seeking
# Codecs that mark in each frame whether another one refers to it. (H.265's mark is about one temporal layer.)
_MARKS_REFERENCES = frozenset({"h264", "mpeg4", "mpeg2video"})


class _NotAsIndexedError(Exception):
    """The decoder's output differs from the index."""


class Video(Reader):
    """A video file whose frames are read by time. Not thread-safe."""

    def __init__(self, source: Source, index: PacketIndex | None = None) -> None:
        """``index``: the packet index of this file; if None, the file is indexed now.

        Raises DecodeError, also if the file is not the one that was indexed.
        """
        self.name = name_of(source)
        self._source = source
        self._index_is_given = index is not None
        self._is_checked = index is None
        self.index = index_video(source) if index is None else index
        if self._index_is_given and self.index.size_bytes != size_of(source):
            raise not_as_indexed(self.name)
        self._is_exact = self.index.is_exact
        self._losses = Losses(self.index)
        self._decoder: _IndexedDecoder | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._decoder = None
        self._closing.close()

    @property
    def losses(self) -> Losses:
        """The damaged parts of the file, as far as they are known."""
        return self._losses

    @property
    def info(self) -> VideoInfo:
        """Properties of the video stream."""
        index = self.index
        width, height = index.upright_size
        return VideoInfo(
            duration_s=index.duration_s,
            fps=index.fps,
            width=width,
            height=height,
            rotation=index.rotation,
            mirrored=index.mirrored,
            pixel_aspect=float(index.upright_pixel_aspect),
            codec=index.codec,
            frames=index.frames,
        )

    def frames_at(self, timestamps_s: np.ndarray) -> Iterator[tuple[list[int], "_VideoFrame"]]:
        """See ``Reader.frames_at``. Rows are yielded again if the file turns out to differ from its index."""
        times_s, info = checked_times(timestamps_s), self.info
        outside = np.count_nonzero((times_s < 0) | (times_s > info.duration_s))
        if outside:
            logger.info(
                "%s: %d of %d timestamps lie outside its %.3f s and give its first or last frame",
                self.name,
                outside,
                len(times_s),
                info.duration_s,
            )
        converter = Converter()
        if self._is_exact:
            try:
                for rows, frame in self._indexed(times_s):
                    yield rows, _VideoFrame(frame, self.index, converter)
                self._check_losses(times_s)
                return
            except _NotAsIndexedError as error:
                logger.debug("%s: decoded from its start: %s", self.name, error)
                self.close()
                self._index_again()
        for rows, frame in self._from_start(times_s):
            yield rows, _VideoFrame(frame, self.index, converter)
        self._check_losses(times_s)

    def _check_losses(self, times_s: np.ndarray) -> None:
        if self._losses:
            self._losses.check(self.name, times_s)

    def _indexed(self, times_s: np.ndarray) -> Iterator[tuple[list[int], av.VideoFrame]]:
        index = self.index
        first_pts, last_pts = int(index.shown_pts[0]), int(index.shown_pts[-1])
        pts_of_rows = [_pts_at(time_s, first_pts, index.time_base) for time_s in times_s.tolist()]
        if index.truncated and max(pts_of_rows) > last_pts:
            raise damaged(self.name)
        if self._decoder is None:
            container, stream = self._closing.enter_context(video_stream(self._source, probe=False))
            self._decoder = _IndexedDecoder(container, stream, index, self._losses)
        rows = list(range(len(pts_of_rows)))
        while rows:  # again for those whose frame turns out to be lost
            wanted = self._wanted(rows, pts_of_rows)
            yield from self._decoded(wanted)
            rows = [row for position, of_one in wanted.items() if position in self._losses for row in of_one]

    def _wanted(self, rows: Sequence[int], pts_of_rows: Sequence[int]) -> dict[int, list[int]]:
        """Position of a packet -> the rows that show its frame."""
        shown = self._losses.whole() if self._losses else self.index.shown
        shown_pts = self.index.pts[shown] if self._losses else self.index.shown_pts
        if not len(shown):
            raise self._losses.error(self.name)
        wanted: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            place = int(np.searchsorted(shown_pts, pts_of_rows[row], side="right")) - 1
            wanted[int(shown[max(place, 0)])].append(row)
        return wanted

    def _decoded(self, wanted: Mapping[int, list[int]]) -> Iterator[tuple[list[int], av.VideoFrame]]:
        decoder = cast(_IndexedDecoder, self._decoder)
        for first, positions in _runs(self.index, sorted(wanted)):
            left = {int(self.index.pts[position]): position for position in positions}
            for pts, frame in decoder.frames(first, positions):
                if not self._is_checked and not self._is_indexed(decoder.stream, frame):
                    raise _NotAsIndexedError("it is another stream")
                self._is_checked = True
                if pts not in left:
                    raise _NotAsIndexedError(f"two frames came for presentation time {pts}")
                yield wanted[left.pop(pts)], frame
            if any(position not in self._losses for position in left.values()):
                raise _NotAsIndexedError(f"no frame came for presentation time {min(left)}")

    def _from_start(self, times_s: np.ndarray) -> Iterator[tuple[list[int], av.VideoFrame]]:
        """Decode every frame up to the last wanted one: slow, but correct for every file."""
        first_pts = int(self.index.shown_pts[0])
        with video_stream(self._source, probe=True) as (container, stream):
            frames = in_order(self.name, stream, container.demux(stream), self.index, self._losses)
            try:
                current = next(frames, None)
                if current is None:
                    raise self._nothing_shown()
                if self._index_is_given and not self._is_indexed(stream, current[1]):
                    raise not_as_indexed(self.name)
                rows: dict[int, list[int]] = defaultdict(list)
                for row, time_s in enumerate(times_s.tolist()):
                    rows[_pts_at(time_s, first_pts, self.index.time_base)].append(row)
                ahead = next(frames, None)
                for pts in sorted(rows):
                    while ahead is not None and ahead[0] <= pts:
                        current, ahead = ahead, next(frames, None)
                    if ahead is None and self.index.truncated and pts > current[0]:
                        raise damaged(self.name)
                    yield rows[pts], current[1]
            except av.FFmpegError as error:
                raise damaged(self.name, f"damaged or cut off ({error.strerror})") from None

    def _nothing_shown(self) -> DecodeError:
        if self._losses:
            return self._losses.error(self.name)
        return DecodeError("the video stream holds no frames", code="empty", key=self.name)

    def _index_again(self) -> None:
        """Replace a wrong index; of a file whose own index is not enough, every frame will be decoded."""
        self._is_exact = False
        if self._index_is_given:
            given, self.index = self.index, index_video(self._source)
            if self.index.format != given.format:
                raise not_as_indexed(self.name)
            self._index_is_given = False
            self._losses = Losses(self.index)

    def _is_indexed(self, stream: av.VideoStream, frame: av.VideoFrame) -> bool:
        """Whether ``frame`` of ``stream`` has the format that the index holds."""
        codec = stream.codec.canonical_name
        found = (codec, frame.width, frame.height, *rotation_of(frame), stream.time_base)
        return found == self.index.format


class _IndexedDecoder:
    """Decodes runs of packets; the index tells which packet comes next."""

    def __init__(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        index: PacketIndex,
        losses: Losses,
    ) -> None:
        self._container = container
        self.stream = stream
        self._context = stream.codec_context
        self._index = index
        self._losses = losses
        self._pts: list[int] = index.pts.tolist()
        self._skips_unreferenced = self._context.name in _MARKS_REFERENCES
        if self._context.name == "h264":
            # Without probing, the decoder would otherwise guess the order of the first frames.
            self._context.options = {**self._context.options, "strict": "1"}
        self._packets = self._demux()
        self._next = 0

    def frames(self, first: int, positions: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(pts, frame) of the packets at ``positions``, decoded from the key frame ``first``.

        Raises _NotAsIndexedError if the file differs from its index.
        """
        wanted = {self._pts[position]: position for position in positions}
        starts_whole = first == 0 or first in self._losses
        for frame in self._decoded(first, positions[-1], wanted):
            # With gradual intra refresh, a packet marked as a key frame may hold no complete image.
            starts_whole = starts_whole or (
                frame.pts == self._pts[first] and frame.pict_type == PictureType.I
            )
            if not starts_whole:
                raise _NotAsIndexedError(f"packet {first} is no key frame")
            if frame.is_corrupt:  # what is missing was concealed by the decoder
                self._losses.add(int(np.flatnonzero(self._index.pts == frame.pts)[0]))
            if frame.pts in wanted and not (self._losses and wanted[frame.pts] in self._losses):
                yield frame.pts, frame

    def _decoded(self, first: int, last: int, wanted: Mapping[int, int]) -> Iterator[av.VideoFrame]:
        key_pts = self._pts[first]
        self._go_to(first)
        try:
            for position in range(first, last + 1):
                packet = next(self._packets, None)
                pts = self._pts[position]
                self._next = position + 1
                if packet is None or packet.pts != pts:
                    raise _NotAsIndexedError(f"packet {position} is another one")
                if first and pts < key_pts:
                    continue  # refers to frames before the key frame; no wanted frame refers to it
                if self._skips_unreferenced:
                    self._context.skip_frame = "DEFAULT" if pts in wanted else "NONREF"
                yield from self._frames_of(packet, position)
            # The frames that the decoder still holds back to reorder them need no later packet.
            yield from self._frames_of(None, last)
        finally:
            self._context.flush_buffers()  # also if the caller stops early

    def _frames_of(self, packet: "av.Packet[av.VideoStream] | None", position: int) -> "list[av.VideoFrame]":
        try:
            return self._context.decode(packet)
        except av.FFmpegError:
            self._losses.add(position)
            return []

    def _go_to(self, position: int) -> None:
        """Seek so that packet ``position`` is read next."""
        if self._next <= position <= self._next + _SEEK_GAP:
            while self._next < position:
                if next(self._packets, None) is None:
                    raise _NotAsIndexedError("it ends early")
                self._next += 1
            return
        target = self._pts[position]
        attempt, step = target, 1
        while True:
            try:
                self._container.seek(attempt, stream=self.stream)
            except av.FFmpegError as error:
                raise _NotAsIndexedError(f"seeking failed: {error.strerror}") from None
            packets = self._demux()
            for packet in packets:
                if packet.pts == target:
                    self._packets = chain([packet], packets)
                    self._next = position
                    return
                if packet.is_keyframe and packet.pts is not None and packet.pts > target:
                    break  # the seek went by decoding time and landed too late
            if attempt < self._pts[0]:
                raise _NotAsIndexedError(f"packet {position} is not found")
            attempt, step = attempt - step, step * 8

    def _demux(self) -> Iterator["av.Packet[av.VideoStream]"]:
        try:
            yield from (packet for packet in self._container.demux(self.stream) if packet.size)
        except av.FFmpegError as error:
            raise _NotAsIndexedError(f"reading failed: {error.strerror}") from None


@dataclass(frozen=True)
class _VideoFrame:
    """A ``Frame`` of a video file."""

    frame: av.VideoFrame
    index: PacketIndex
    converter: Converter

    def pixels(
        self, *, box: Box | None = None, size: tuple[int, int] | None = None, mirror: bool = False
    ) -> np.ndarray:
        frame, index = self.frame, self.index
        if (frame.width, frame.height) != (index.width, index.height):  # the size changed in the stream
            frame = frame.reformat(width=index.width, height=index.height)
        if index.mirrored:
            mirror = not mirror
            if box is not None:
                left, top, width, height = box
                box = index.upright_size[0] - left - width, top, width, height
        return self.converter.pixels(frame, box=box, size=size, mirror=mirror, rotation=index.rotation)


def _runs(index: PacketIndex, positions: Sequence[int]) -> list[tuple[int, list[int]]]:
    """(key packet, wanted packets) of every stretch that is decoded without a seek; ``positions`` ascend."""
    runs: list[tuple[int, list[int]]] = []
    for position in positions:
        first, stretch = index.key_frame_before(position), [position]
        while runs and first <= runs[-1][1][-1]:
            earlier_first, earlier = runs.pop()
            first, stretch = min(first, earlier_first), earlier + stretch
        runs.append((first, stretch))
    return runs


def _pts_at(time_s: float, first_pts: int, time_base: Fraction) -> int:
    if time_s <= 0:
        return first_pts
    if math.isinf(time_s):
        return _AFTER_ALL_FRAMES
    ticks: int = math.floor((Fraction(time_s) + _TOLERANCE_S) / time_base)
    return min(first_pts + ticks, _AFTER_ALL_FRAMES)
