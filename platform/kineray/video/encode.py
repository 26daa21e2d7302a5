"""A training copy of one video: a small H.264 file with many key frames and the same timestamps."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from kineray.errors import DecodeError
from kineray.video.container import Source, damaged, name_of
from kineray.video.index import index_video
from kineray.video.losses import Losses
from kineray.video.packet_index import PacketIndex
from kineray.video.sequence import every_frame

COUNT_TOLERANCE = 0.01  # relative deviation of the number of frames from the header's that is accepted
_SMPTE170M = 6  # the colour matrix with which libswscale converts RGB


@dataclass(frozen=True)
class Settings:
    """How copies are encoded.

    ``short_side``: most pixels of the short side; a smaller video is not enlarged. ``key_frames``: distance
    between key frames, in frames. ``crf``: x264's quality, lower is better. 21 with the preset ``veryfast``
    looks like x264's default (23 with ``medium``), but takes half the time and a third more space.
    """

    short_side: int = 320
    key_frames: int = 32
    crf: int = 21

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the copy of a video: both even, as 4:2:0 needs."""
        scale = min(Fraction(self.short_side, min(width, height)), Fraction(1))
        if scale == 1:  # an odd row or column is cut off, as scaling would blur the whole frame
            return max(width // 2 * 2, 2), max(height // 2 * 2, 2)
        return max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)


def encode(
    source: Source, target: Path, settings: Settings, *, limit_s: float | None = None
) -> tuple[PacketIndex, PacketIndex]:
    """Write a copy of one video, or of its first ``limit_s`` seconds: (index of the source, of the copy).

    Every frame keeps its time since the first one, and the last one its duration. Rotation is applied. Pixel
    aspect ratio, colour range, matrix, primaries and transfer are kept. Where the source is damaged, which
    the index that is returned says, the copy shows the frame before. Raises DecodeError.
    """
    name = name_of(source)
    index = index_video(source)
    if index.truncated:
        raise damaged(name)
    limit = None if limit_s is None else int(limit_s / index.time_base)
    times: list[int] = []
    decoded, losses = 0, Losses(index)

    def counted() -> Iterator[tuple[int, av.VideoFrame]]:
        nonlocal decoded
        for pts, frame in every_frame(source, index, losses):
            decoded += 1
            # The copy starts at time 0 even if the first frames of the source cannot be decoded.
            yield max(pts - int(index.shown_pts[0]), 0) if decoded > 1 else 0, frame

    with _Encoder(target, index, settings) as encoder:
        frames = takewhile(lambda timed: limit is None or timed[0] <= limit, _ascending(counted()))
        for pts, frame, kind in _with_kinds(frames):
            encoder.write(frame, pts, kind)
            times.append(pts)
        if not times:
            raise losses.error(name) if losses else damaged(name, "none of its frames can be decoded")
    losses.check(name, index.times_s[index.times_s <= (np.inf if limit_s is None else limit_s)])
    copy = index_video(target)
    if limit is None and abs(index.frames - len(losses) - decoded) > max(index.frames * COUNT_TOLERANCE, 1):
        raise DecodeError(
            f"{index.frames} frames are stored, but {decoded} can be decoded",
            code="wrong_frame_count",
            key=name,
        )
    if not np.array_equal(_in_units(copy, index.time_base), times):
        raise DecodeError("the times of its frames cannot be kept", code="wrong_frame_count", key=name)
    return losses.marked(), copy


class _Encoder:
    """An MP4 file that is being written: H.264 4:2:0, closed GOPs, the table of packets in front."""

    def __init__(self, target: Path, index: PacketIndex, settings: Settings) -> None:
        self._index = index
        self._turn = (index.rotation, index.mirrored)
        self._size = settings.size(*index.upright_size)
        self._settings = settings
        self._scaled = min(index.upright_size) > settings.short_side
        self._reformatter = VideoReformatter()
        self._container = av.open(str(target), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: av.VideoStream | None = None
        self._packet: av.Packet[av.VideoStream] | None = None  # the last one, not yet written

    def __enter__(self) -> "_Encoder":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._mux(None)
                last = cast("av.Packet[av.VideoStream]", self._packet)
                # The durations of all others follow from the times.
                last.duration = max(self._index.last_duration, 1)
                self._container.mux(last)
        finally:
            self._container.close()

    def write(self, frame: av.VideoFrame, pts: int, kind: PictureType = PictureType.NONE) -> None:
        """Encode one frame; ``pts``: its time since the first one, in units of the source's time base."""
        converted = self._converted(frame)
        if self._stream is None:
            self._stream = self._open(converted, frame)
        converted.pts, converted.time_base = pts, self._index.time_base
        converted.pict_type = kind
        self._mux(converted)

    def _open(self, converted: av.VideoFrame, source: av.VideoFrame) -> av.VideoStream:
        rate = Fraction(self._index.fps or 25).limit_denominator(100_000)
        stream = self._container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *self._size, "yuv420p"
        context = stream.codec_context
        context.time_base = self._index.time_base
        context.sample_aspect_ratio = self._index.upright_pixel_aspect
        context.thread_count = 1  # videos are encoded in parallel
        context.color_range, context.colorspace = converted.color_range, converted.colorspace
        context.color_primaries, context.color_trc = source.color_primaries, source.color_trc
        every = self._settings.key_frames
        stream.options = {
            "preset": "veryfast",
            "crf": str(self._settings.crf),
            # No frame refers to a B-frame, so a reader that skips frames need not decode B-frames.
            "x264-params": f"keyint={every}:scenecut=0:open-gop=0:b-pyramid=none",
        }
        return stream

    def _converted(self, frame: av.VideoFrame) -> av.VideoFrame:
        """``frame``, upright and of the copy's size, in yuv420p."""
        is_rgb = frame.format.is_rgb
        width, height = self._index.width, self._index.height
        if self._scaled:
            width, height = self._size if self._turn[0] % 180 == 0 else self._size[::-1]
        target_range = ColorRange.MPEG if is_rgb else frame.color_range
        converted = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format="yuv420p",
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
            src_color_range=frame.color_range,
            dst_color_range=target_range,
            threads=1,
        )
        if any(self._turn) or (converted.width, converted.height) != self._size:
            converted = _upright(converted, *self._turn, self._size)
        elif converted is frame:  # the decoder may still refer to it
            converted = _upright(converted, 0, False, self._size)
        converted.color_range = target_range
        converted.colorspace = _SMPTE170M if is_rgb else frame.colorspace
        return converted

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in cast(av.VideoStream, self._stream).encode(frame):
            if self._packet is not None:
                self._container.mux(self._packet)
            self._packet = packet


def _upright(frame: av.VideoFrame, rotation: int, mirrored: bool, size: tuple[int, int]) -> av.VideoFrame:
    """A copy of a yuv420p frame, rotated, mirrored and cut to ``size`` = (width, height), both even."""
    width, height = size
    planes = []
    for number, plane in enumerate(frame.planes):
        rows = np.frombuffer(cast(Any, plane), np.uint8)[: plane.line_size * plane.height]
        rotated = np.rot90(rows.reshape(plane.height, plane.line_size)[:, : plane.width], rotation // 90)
        rotated = rotated[:, ::-1] if mirrored else rotated
        part = 1 if number == 0 else 2
        planes.append(rotated[: height // part, : width // part].reshape(-1))
    return av.VideoFrame.from_ndarray(
        np.concatenate(planes).reshape(height * 3 // 2, width), format="yuv420p"
    )


def _ascending(frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Frames with strictly ascending times: of two frames with the same time, the last one is kept."""
    waiting: tuple[int, av.VideoFrame] | None = None
    for pts, frame in frames:
        if waiting is not None and pts > waiting[0]:
            yield waiting
        if waiting is None or pts >= waiting[0]:
            waiting = (pts, frame)
    if waiting is not None:
        yield waiting


def _with_kinds(
    frames: Iterator[tuple[int, av.VideoFrame]],
) -> Iterator[tuple[int, av.VideoFrame, PictureType]]:
    """Let the last but one be no B-frame, so that the frame that is shown last is stored last.

    A reader then finds its duration, which MP4 stores as a distance in decoding order.
    """
    held: deque[tuple[int, av.VideoFrame]] = deque()
    for timed in frames:
        held.append(timed)
        if len(held) > 2:
            yield *held.popleft(), PictureType.NONE
    for number, timed in enumerate(held):
        yield *timed, PictureType.P if number < len(held) - 1 else PictureType.NONE


def _in_units(index: PacketIndex, time_base: Fraction) -> np.ndarray:
    """Times of the frames since the first one, in units of ``time_base``; -1 for no whole number of units."""
    ratio = index.time_base / time_base
    ticks = (index.shown_pts - index.shown_pts[0]) * ratio.numerator
    return np.where(ticks % ratio.denominator == 0, ticks // ratio.denominator, -1)
