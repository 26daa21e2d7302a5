"""Frames of a video file by presentation time.

Time zero is the first presented frame. The frame at time t is the last one presented at or before t.
Only the frames between a key frame and the last wanted time are decoded, and only the wanted ones are
converted to RGB.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeAlias

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from kineray.errors import DecodeError

logger = logging.getLogger(__name__)

Source: TypeAlias = str | Path | BinaryIO
Timed: TypeAlias = tuple[int, av.VideoFrame]  # presentation time in the stream's time base, frame

# Only containers that hold their own frames: a playlist (HLS, concat) could name other files or hosts.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
_TOLERANCE_S = Fraction(1, 1_000_000)  # absorbs the rounding of timestamps held in floats
_SEEK_GAIN_S = 0.25  # a seek empties the decoder, so it must save more than a few frames
_SEEK_GAP_S = 4.0  # without an index a seek is tried only over a gap that is longer than most GOPs
_LATE_END_S = 1.0  # how much earlier than announced a stream may end before it counts as cut off


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video stream; ``width`` and ``height`` in pixels as displayed.

    ``duration_s`` runs from the first presented frame to the end of the last one. ``rotation``: degrees
    (0, 90, 180 or 270) by which the coded picture is turned counterclockwise for display. ``frames``:
    None where the container does not say.
    """

    duration_s: float
    fps: float
    width: int
    height: int
    rotation: int
    codec: str
    frames: int | None


def read_clip(
    path_or_file: Source, timestamps_s: Sequence[float] | np.ndarray, *, short_side: int | None = None
) -> np.ndarray:
    """Decode the frames at ``timestamps_s`` (seconds): uint8 [T, H, W, 3], RGB, upright.

    Timestamps come in any order and may repeat; those before the first frame or after the last give the
    first or the last frame. ``short_side`` scales the frames so that their short side has so many
    pixels (bilinear, aspect ratio kept). Raises DecodeError.
    """
    with open_video(path_or_file) as video:
        return video.read(timestamps_s, short_side=short_side)


def probe(path_or_file: Source) -> VideoInfo:
    """Duration, frame rate, size and codec of a video; its first frame is decoded. Raises DecodeError."""
    with open_video(path_or_file) as video:
        return video.info


@contextmanager
def open_video(path_or_file: Source) -> Iterator["Video"]:
    """Open a video to read its ``info`` and clips from it, closing it at the end. Raises DecodeError."""
    video = Video(path_or_file)
    try:
        yield video
    finally:
        video.close()


class Video:
    """An open video: a decoder that stands at one frame and moves forward, or seeks. For one thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.name = _name(source)
        self._reformatter = VideoReformatter()
        self._ahead: Timed | None = None
        self._current: Timed = self._restart()
        # AVI stores no presentation times: they are known only by counting from the start.
        self._seekable = not self._in_avi
        self._first_pts, first = self._current
        self._last_pts = self._first_pts + (self._stream.duration or 2**61)
        self._rotation = round(first.rotation / 90) * 90 % 360
        self._coded_size = (first.width, first.height)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    @property
    def info(self) -> VideoInfo:
        """What the file says of its video stream."""
        width, height = self._coded_size
        if self._rotation % 180:
            width, height = height, width
        rate = self._stream.average_rate or self._stream.guessed_rate
        return VideoInfo(
            duration_s=self._duration_s(),
            fps=float(rate or 0),
            width=width,
            height=height,
            rotation=self._rotation,
            codec=self._stream.codec_context.name,
            frames=self._stream.frames or None,
        )

    def read(
        self, timestamps_s: Sequence[float] | np.ndarray, *, short_side: int | None = None
    ) -> np.ndarray:
        """Frames at ``timestamps_s``: uint8 [T, H, W, 3]; see ``read_clip``."""
        targets = [self._pts_at(float(time)) for time in timestamps_s]
        if not targets:
            raise ValueError("read_clip needs at least one timestamp")
        size = self._scaled_size(short_side)
        height, width = size[::-1] if self._rotation % 180 == 0 else size
        frames_thwc = np.empty((len(targets), height, width, 3), np.uint8)
        shown: int | None = None
        picture = frames_thwc[0]
        for index in sorted(range(len(targets)), key=targets.__getitem__):
            pts, frame = self._frame_at(targets[index])
            if pts != shown:
                shown, picture = pts, self._to_rgb(frame, size)
            frames_thwc[index] = picture
        return frames_thwc

    # -- times --------------------------------------------------------------------------------------

    def _pts_at(self, time_s: float) -> int:
        if math.isnan(time_s):
            raise ValueError("a timestamp is not a number")
        if time_s <= 0:
            return self._first_pts
        if math.isinf(time_s):
            return 2**62
        ticks: int = math.floor((Fraction(time_s) + _TOLERANCE_S) / self._time_base)
        return self._first_pts + ticks

    def _duration_s(self) -> float:
        stream, first_s = self._stream, float(self._first_pts * self._time_base)
        if stream.duration:
            return float(stream.duration * self._time_base)
        announced = _announced_end_s(stream)
        if announced is None and self._container.duration:
            announced = self._container.duration / av.time_base
        if announced is not None:
            return max(announced - first_s, 0.0)
        self._frame_at(2**62)
        pts, frame = self._current
        return float((pts + (frame.duration or 0) - self._first_pts) * self._time_base)

    # -- moving -------------------------------------------------------------------------------------

    def _frame_at(self, target: int) -> Timed:
        """Move to the last frame that is presented at or before ``target``."""
        if target < self._current[0] or self._is_worth_a_seek(target):
            self._seek(target)
        while True:
            if self._ahead is None:
                self._ahead = next(self._frames, None)
            if self._ahead is None or self._ahead[0] > target:
                return self._current
            self._current, self._ahead = self._ahead, None

    def _is_worth_a_seek(self, target: int) -> bool:
        """Whether a key frame lies between the current frame and ``target``, and not close to the former."""
        if not self._seekable:
            return False
        entries = self._stream.index_entries
        here = self._current[0]
        if len(entries) and entries[-1].timestamp >= target - self._delay:
            found = entries.search_timestamp(target - self._delay)
            return found >= 0 and (entries[found].timestamp - here) * self._time_base > _SEEK_GAIN_S
        # Matroska and MPEG-TS know their key frames only after a first seek, or never.
        return (target - here) * self._time_base > _SEEK_GAP_S

    def _seek(self, target: int) -> None:
        """Move to a frame at or before ``target`` from which decoding is exact."""
        if not (self._seekable and self._seek_key_frame(target)):
            self._container.close()
            self._current, self._ahead = self._restart(), None

    def _seek_key_frame(self, target: int) -> bool:
        """Move to a key frame at or before ``target``; False if the file must be read from its start.

        A container may seek by decoding time, and so land on a key frame that is presented after
        ``target``; then the seek is repeated from further back. Frames that are decoded after the key frame
        but presented before it (an open GOP) lack their references and are dropped. A stream whose
        key packets hold no intra picture (gradual refresh) is not exact after a seek.
        """
        attempt, step = min(target, self._last_pts), 1
        while attempt > self._first_dts:
            try:
                self._container.seek(attempt, stream=self._stream)
                packets = self._container.demux(self._stream)
                key = next((packet for packet in packets if packet.is_keyframe), None)
            except av.FFmpegError:
                self._seekable = False
                return False
            if key is not None and key.pts is not None:
                frames = self._decode(chain([key], packets), floor=key.pts)
                first = next(frames, None)
                if first is None or first[1].pict_type != PictureType.I:
                    self._seekable = False
                    return False
                if first[0] <= target:
                    self._frames, self._current, self._ahead = frames, first, None
                    return True
            attempt, step = attempt - step, step * 8
        return False

    def _restart(self) -> Timed:
        """Open the file and decode its first presented frame."""
        self._container = _open(self._source, self.name)
        self._in_avi = self._container.format.name == "avi"
        try:
            self._stream = _video_stream(self._container, self.name)
            self._time_base = Fraction(self._stream.time_base or Fraction(1, av.time_base))
            self._last_dts: int | None = None
            self._first_dts, self._delay = 0, 0
            self._frames = self._decode(self._first_packets(), floor=None)
            first = next(self._frames, None)
            if first is None:
                raise DecodeError("empty", f"{self.name}: the video stream holds no frames")
            return first
        except BaseException:
            self._container.close()
            raise

    def _first_packets(self) -> Iterator["av.Packet[av.VideoStream]"]:
        packets = self._container.demux(self._stream)
        for packet in packets:
            if packet.dts is not None:
                self._first_dts = packet.dts
                # How much later than its decoding time a key frame is presented.
                self._delay = max((packet.pts or packet.dts) - packet.dts, 0)
            yield packet
            break
        yield from packets

    def _decode(self, packets: Iterable["av.Packet[av.VideoStream]"], floor: int | None) -> Iterator[Timed]:
        """Frames of ``packets`` in the order of presentation, without those before ``floor``."""
        pts = floor or 0
        duration = 0
        try:
            for packet in packets:
                if packet.dts is not None:
                    self._last_dts = packet.dts
                if packet.is_corrupt:
                    raise DecodeError("truncated", f"{self.name}: the data ends in the middle of a frame")
                for frame in packet.decode():
                    # AVI holds no presentation times; frames leave the decoder in order, one per packet.
                    known = frame.dts if frame.pts is None or self._in_avi else frame.pts
                    pts = known if known is not None else pts + duration
                    duration = frame.duration or duration
                    if floor is None or pts >= floor:
                        yield pts, frame
        except av.FFmpegError as error:
            at_s = float(pts * self._time_base)
            raise DecodeError(
                "truncated", f"{self.name}: damaged or cut off near {at_s:.2f} s ({error.strerror})"
            ) from None
        self._check_complete(pts, duration)

    def _check_complete(self, last_pts: int, last_duration: int) -> None:
        """Raise DecodeError if the data ended before the last frame that the file announces."""
        entries = self._stream.index_entries
        if self._container.format.name.startswith("mov") and len(entries):
            # MP4 lists every packet by its decoding time.
            cut = self._last_dts is None or self._last_dts < entries[-1].timestamp
        else:
            announced_s = _announced_end_s(self._stream)
            end_s = float((last_pts + last_duration) * self._time_base)
            cut = announced_s is not None and end_s + _LATE_END_S < announced_s
        if cut:
            raise DecodeError("truncated", f"{self.name}: the file is cut off; copy or download it again")

    # -- pictures -----------------------------------------------------------------------------------

    def _scaled_size(self, short_side: int | None) -> tuple[int, int]:
        """(width, height) before rotation."""
        width, height = self._coded_size
        if short_side is None:
            return width, height
        if short_side < 1:
            raise ValueError(f"short_side must be at least 1, not {short_side}")
        scale = Fraction(short_side, min(width, height))
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def _to_rgb(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        """uint8 [H, W, 3], upright."""
        picture = self._reformatter.reformat(
            frame, width=size[0], height=size[1], format="rgb24", threads=1
        ).to_ndarray()
        return np.rot90(picture, self._rotation // 90) if self._rotation else picture


def _name(source: Source) -> str:
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the upload"))


def _open(source: Source, name: str) -> InputContainer:
    options = {"format_whitelist": _FORMATS}
    try:
        if isinstance(source, str | Path):
            path = Path(source)
            if not path.is_file():
                what = "a folder, not a video file" if path.is_dir() else "no such file"
                raise DecodeError("not_found", f"{name}: {what}")
            with path.open("rb") as file:
                head = file.read(12)
        else:
            source.seek(0)
            head = source.read(12)
            source.seek(0)
        if not head:
            raise DecodeError("empty", f"{name}: the file has no bytes")
        # The prefix keeps a name such as "concat:a|b" from being read as another protocol.
        file_or_url = f"file:{source}" if isinstance(source, str | Path) else source
        return av.open(file_or_url, mode="r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3":
            raise DecodeError(
                "truncated", f"{name}: the file is cut off or damaged ({error.strerror})"
            ) from None
        raise DecodeError("not_a_video", f"{name}: not a video file ({error.strerror})") from None
    except OSError as error:
        raise DecodeError("not_found", f"{name}: cannot be read ({error.strerror})") from None


def _video_stream(container: InputContainer, name: str) -> av.VideoStream:
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            continue  # a cover picture
        if stream.codec_context is None or stream.codec_context.codec is None:
            raise DecodeError(
                "codec_unsupported", f"{name}: its video codec is not supported; convert it to H.264"
            )
        # One thread for a clip: clips are decoded side by side, and threads inside would only compete.
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
        return stream
    raise DecodeError("no_video_stream", f"{name}: no video stream in the file")


def _announced_end_s(stream: av.VideoStream) -> float | None:
    """The end of a Matroska track, from its DURATION tag (``00:00:04.040000000``)."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
