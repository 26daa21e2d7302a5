"""Videos that are stored as folders of numbered images: RGB frames and optical flow.

    /data/P01_01/frame_%010d.jpg#fps=60                    RGB
    /data/P01_01/{u,v}/frame_%010d.jpg#fps=30&bound=25     flow: one image of u and one of v for each frame

Frame k, counted from 1, is shown from (k - 1) / fps to k / fps seconds, even if the folder starts with a
later number. A grey value g of flow stands for a motion of 2 * bound * g / 255 - bound pixels: u to the
right, v down.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext

from kineray.errors import DecodeError
from kineray.video.container import MAX_PIXELS, check_size
from kineray.video.pixels import Box, Converter
from kineray.video.reader import Reader, VideoInfo, checked_times
from kineray.video.suffixes import is_video_name

_TOLERANCE_S = 1e-6  # absorbs the rounding of timestamps held in floats, as for video files
# Matches every attempt at the URI of a frame folder, well-formed or not; the rest are names of video files.
_FRAMES = re.compile(r"#[^/]*\b(fps|bound)=|%\d*d[^/]*\.(jpe?g|png)(#[^/]*)?$", re.IGNORECASE)
_FLOW = re.compile(r"#[^/]*\bbound=", re.IGNORECASE)
_NUMBER = re.compile(r"%(?:0(\d+))?d")
_PAIR = re.compile(r"\{([^{},/]+),([^{},/]+)\}")
_EXAMPLES = "write /folder/frame_%010d.jpg#fps=60, or for flow /folder/{u,v}/frame_%010d.jpg#fps=30&bound=20"
_REMEDY = "extract the frames again"
_STARTS = {"mjpeg": b"\xff\xd8", "png": b"\x89PNG"}
_SCANS = {"mjpeg": b"\xff\xda", "png": b"IDAT"}
_ENDS = {"mjpeg": b"\xff\xd9", "png": b"IEND"}


@dataclass(frozen=True)
class FramesUri:
    """A frame folder: ``pattern`` with one ``%0Nd`` in the file's name, and for flow one ``{u,v}``.

    ``fps``: frames per second. ``bound``: motion, in pixels, that the ends of the grey scale stand for; None
    for RGB.
    """

    pattern: str
    fps: float
    bound: float | None = None

    def __str__(self) -> str:
        bound = "" if self.bound is None else f"&bound={_plain(self.bound)}"
        return f"{self.pattern}#fps={_plain(self.fps)}{bound}"

    @property
    def components(self) -> tuple[str, ...]:
        """The patterns of the images of one frame: one for RGB, those of u and v for flow."""
        if self.bound is None:
            return (self.pattern,)
        return tuple(_PAIR.sub(rf"\{which}", self.pattern) for which in (1, 2))


def is_frames_uri(source: object) -> bool:
    """Whether ``source`` names a frame folder rather than a video file."""
    return _matches(source, _FRAMES)


def is_flow_uri(source: object) -> bool:
    """Whether ``source`` names folders of optical flow."""
    return _matches(source, _FLOW)


def _matches(source: object, pattern: re.Pattern[str]) -> bool:
    """Whether ``source`` is a URI with ``pattern``, and not a video file called like ``x #fps=60.mp4``."""
    uri = str(source) if isinstance(source, str | Path) else ""
    return pattern.search(uri) is not None and not is_video_name(uri)


def frames_uri(pattern: str | Path, *, fps: float, bound: float | None = None) -> str:
    """The URI of a frame folder; ``bound`` for flow. Raises DecodeError if it is not a valid one."""
    return str(parse_frames_uri(str(FramesUri(str(pattern), fps, bound))))


def parse_frames_uri(uri: str | Path) -> FramesUri:
    """Read the URI of a frame folder. Raises DecodeError (``not_a_video``) for a malformed one."""
    text = str(uri)

    def refused(reason: str) -> DecodeError:
        return DecodeError(reason, code="not_a_video", key=text, remedy=_EXAMPLES)

    pattern, _, fragment = text.rpartition("#") if "#" in text.rpartition("/")[2] else (text, "", "")
    values: dict[str, float] = {}
    for part in filter(None, fragment.split("&")):
        key, _, value = part.partition("=")
        if key not in ("fps", "bound") or key in values:
            raise refused(f"'{part}' is not fps=NUMBER or bound=NUMBER, once each")
        try:
            values[key] = float(value)
        except ValueError:
            values[key] = math.nan
        if not 0 < values[key] < math.inf:
            raise refused(f"{key}={value} is not a number above 0")
    if "fps" not in values:
        raise refused("the frames per second are missing")
    name = pattern.rpartition("/")[2]
    if len(_NUMBER.findall(name)) != 1 or name.count("%") != 1:
        raise refused("the file name must contain one %0Nd, which stands for the number of the frame")
    if "://" in pattern:
        raise refused("frame folders must be on a local disk")
    pairs = len(_PAIR.findall(pattern))
    if "bound" in values and pairs != 1:
        raise refused("flow needs one {u,v}, which stands for the names of its two components")
    if "bound" not in values and pairs:
        raise refused("the bound of the flow is missing")
    return FramesUri(pattern, values["fps"], values.get("bound"))


def open_frames(uri: str | Path) -> "FrameFolder | FlowFolder":
    """The reader of a frame folder. Raises DecodeError."""
    parsed = parse_frames_uri(uri)
    return FrameFolder(parsed) if parsed.bound is None else FlowFolder(parsed, parsed.bound)


class _Folder(Reader):
    """A folder of images, read by time. Not thread-safe."""

    channels: int

    def __init__(self, uri: FramesUri) -> None:
        self.name = str(uri)
        self._uri = uri
        listings = [_listing(pattern, _modified(pattern)) for pattern in uri.components]
        # Flow: only frames of which both components exist can be used.
        self._first = max(listing.first for listing in listings)
        self._last = min(listing.last for listing in listings)
        if self._first > self._last:
            raise DecodeError("u and v have no frame number in common", code="empty", key=self.name)
        self._frames = min(listing.count for listing in listings)
        self._decoder = _ImageDecoder()
        self._info: VideoInfo | None = None

    @property
    def info(self) -> VideoInfo:
        """Properties of the folder: the size is that of its first frame, the duration the end of its last."""
        if self._info is None:
            first = self._image(self._uri.components[0], self._first)
            self._info = VideoInfo(
                duration_s=self._last / self._uri.fps,
                fps=self._uri.fps,
                width=first.width,
                height=first.height,
                rotation=0,
                codec=self._decoder.codec,
                frames=self._frames,
                channels=self.channels,
            )
        return self._info

    def frames_at(self, timestamps_s: np.ndarray) -> Iterator[tuple[list[int], "_FolderFrame"]]:
        """See ``Reader.frames_at``."""
        times_s = checked_times(timestamps_s)
        numbers = np.floor((times_s + _TOLERANCE_S) * self._uri.fps) + 1
        rows: dict[int, list[int]] = defaultdict(list)
        for row, number in enumerate(numbers.clip(self._first, self._last)):
            rows[int(number)].append(row)
        converter = Converter()
        for number in sorted(rows):
            frames = [self._image(pattern, number) for pattern in self._uri.components]
            yield rows[number], _FolderFrame(tuple(frames), converter)

    def _image(self, pattern: str, number: int) -> av.VideoFrame:
        path = pattern_path(pattern, number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DecodeError(
                f"missing from frames {self._first} to {self._last}",
                code="wrong_frame_count",
                key=path,
                remedy=_REMEDY,
            ) from None
        except OSError as error:
            problem = f"cannot be read ({error.strerror})"
            raise DecodeError(problem, code="not_found", key=path) from None
        frame = self._decoder.decode(data, str(path))
        if self._info is not None and (frame.width, frame.height) != (self._info.width, self._info.height):
            raise DecodeError(
                f"{frame.width}x{frame.height} pixels, but the folder's first frame has"
                f" {self._info.width}x{self._info.height}",
                code="truncated",
                key=path,
                remedy=_REMEDY,
            )
        return frame


class FrameFolder(_Folder):
    """A folder of RGB frames."""

    channels = 3


class FlowFolder(_Folder):
    """Two folders of grey images, u and v; ``bound``: motion, in pixels, that 255 stands for."""

    channels = 2

    def __init__(self, uri: FramesUri, bound: float) -> None:
        super().__init__(uri)
        self.bound = bound


@dataclass(frozen=True)
class _FolderFrame:
    """A ``Frame`` of a folder: one RGB image, or the images of u and v."""

    frames: tuple[av.VideoFrame, ...]
    converter: Converter

    def pixels(
        self, *, box: Box | None = None, size: tuple[int, int] | None = None, mirror: bool = False
    ) -> np.ndarray:
        if len(self.frames) == 1:
            return self.converter.pixels(self.frames[0], box=box, size=size, mirror=mirror)
        u_hw, v_hw = (
            self.converter.pixels(frame, box=box, size=size, mirror=mirror, luma=True)
            for frame in self.frames
        )
        return np.stack([255 - u_hw if mirror else u_hw, v_hw], axis=-1)


class _ImageDecoder:
    """Decodes JPEG and PNG, whatever the name of the file ends with."""

    def __init__(self) -> None:
        self._contexts: dict[str, VideoCodecContext] = {}
        self.codec = ""

    def decode(self, data: bytes, name: str) -> av.VideoFrame:
        if not data:
            raise DecodeError("the file has no bytes", code="empty", key=name, remedy=_REMEDY)
        self.codec = next((codec for codec, start in _STARTS.items() if data.startswith(start)), "")
        if not self.codec:
            raise DecodeError("neither a JPEG nor a PNG image", code="not_a_video", key=name)
        damaged = DecodeError("the image is damaged or cut off", code="truncated", key=name, remedy=_REMEDY)
        # The decoder would fill in a small missing part. (A thumbnail has its end before the image's scan.)
        if data.rfind(_ENDS[self.codec]) < data.rfind(_SCANS[self.codec]):
            raise damaged
        packet = av.Packet(data)
        packet.is_keyframe = True  # otherwise a PNG would be drawn over the image before it
        try:
            frames = self._context().decode(packet)
        except av.FFmpegError:
            del self._contexts[self.codec]
            raise damaged from None
        if not frames:
            raise damaged
        check_size(name, frames[0].width, frames[0].height)
        return frames[0]

    def _context(self) -> VideoCodecContext:
        if self.codec not in self._contexts:
            context = cast(VideoCodecContext, VideoCodecContext.create(self.codec, "r"))
            context.thread_count = 1
            context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
            self._contexts[self.codec] = context
        return self._contexts[self.codec]


def pattern_path(pattern: str, number: int) -> Path:
    """The file of frame ``number``; percent signs in the folder's name are kept."""
    folder, slash, name = pattern.rpartition("/")
    return Path(folder + slash + name % number)


@dataclass(frozen=True)
class _Listing:
    first: int
    last: int
    count: int


def _modified(pattern: str) -> int:
    """When a file was last added to the folder of ``pattern`` or removed from it, in ns since the epoch."""
    folder = Path(pattern).parent
    try:
        return folder.stat().st_mtime_ns
    except OSError as error:
        raise DecodeError(f"no frames there ({error.strerror})", code="not_found", key=folder) from None


@lru_cache(maxsize=4096)
def _listing(pattern: str, _modified_ns: int) -> _Listing:
    """Which frames exist. Cached, as every clip opens its folder and a folder may hold a million names."""
    path = Path(pattern)
    before, digits, after = _NUMBER.split(path.name)
    padded = re.compile(
        rf"{re.escape(before)}([0-9]{{{digits or 1}}}|[1-9][0-9]{{{digits or 1},}}){re.escape(after)}"
    )
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        problem = f"cannot be listed ({error.strerror})"
        raise DecodeError(problem, code="not_found", key=path.parent) from None
    numbers = [int(match[1]) for name in names if (match := padded.fullmatch(name))]
    if not numbers:
        raise DecodeError(f"no file is named like {path.name}", code="empty", key=path.parent)
    return _Listing(min(numbers), max(numbers), len(numbers))


def _plain(value: float) -> str:
    """``60.0`` -> ``60``; with all digits needed to read the same value back."""
    return repr(float(value)).removesuffix(".0")
