"""Opens a file of any container format, or says in one line what is wrong with it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import av
from av.container import InputContainer
from av.stream import Disposition

from kineray.errors import DecodeError

Source: TypeAlias = str | Path | BinaryIO

MAX_PIXELS = 8192 * 4320
MAX_DURATION_S = 24 * 3600

# Only containers that hold their own frames: a playlist (HLS, concat) could name other files or hosts.
_FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg"
_IMAGES = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_MP4, _MATROSKA = b"ftyp", b"\x1aE\xdf\xa3"


def name_of(source: Source) -> str:
    """The name of ``source`` in errors."""
    return str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the upload"))


def size_of(source: Source) -> int:
    """Size of ``source`` in bytes. Raises DecodeError."""
    try:
        if isinstance(source, str | Path):
            return Path(source).stat().st_size
        return source.seek(0, os.SEEK_END)
    except OSError as error:
        raise _unreadable(name_of(source), error) from None


@contextmanager
def video_stream(source: Source, *, probe: bool) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open ``source`` and the video stream that players show. Raises DecodeError.

    ``probe``: let libav decode a frame or two to find what the header does not contain. For a 1280x720
    file, that takes longer than decoding ten frames later.
    """
    name = name_of(source)
    head = _head(source, name)
    options = {"format_whitelist": _FORMATS}
    if not probe:
        options["skip_frame"] = "all"
        if head[4:8] == _MP4 or head[:4] == _MATROSKA:
            options["analyzeduration"] = "1"  # the headers of these formats describe the streams
    try:
        # The prefix keeps a name such as "concat:a|b" from being read as another protocol.
        file_or_url = f"file:{source}" if isinstance(source, str | Path) else source
        container = av.open(file_or_url, mode="r", options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        if head[4:8] == _MP4 or head[:4] == _MATROSKA:
            raise damaged(name, f"the file is cut off or damaged ({error.strerror})") from None
        raise DecodeError(f"not a video file ({error.strerror})", code="not_a_video", key=name) from None
    except OSError as error:
        raise _unreadable(name, error) from None
    with container:
        yield container, _main_video_stream(container, name)


def _head(source: Source, name: str) -> bytes:
    try:
        if isinstance(source, str | Path):
            path = Path(source)
            if not path.is_file():
                what = "a folder, not a video file" if path.is_dir() else "no such file"
                raise DecodeError(what, code="not_found", key=name)
            with path.open("rb") as file:
                head = file.read(12)
        else:
            source.seek(0)
            head = source.read(12)
            source.seek(0)
    except OSError as error:
        raise _unreadable(name, error) from None
    if not head:
        raise DecodeError("the file has no bytes", code="empty", key=name)
    return head


def _main_video_stream(container: InputContainer, name: str) -> av.VideoStream:
    """The stream that players show: the default one, or the largest; never a cover image."""
    streams = [stream for stream in container.streams.video if not stream.disposition & _IMAGES]
    for stream in sorted(streams, key=_rank, reverse=True):
        context = stream.codec_context
        if context is None or context.codec is None:
            raise DecodeError(
                "its video codec is not supported",
                code="codec_unsupported",
                key=name,
                remedy="convert the video to H.264",
            )
        check_size(name, context.width, context.height)
        # Clips are decoded in parallel processes already: more threads would only compete.
        context.thread_count = 1
        stream.thread_type = "NONE"
        context.options = {"max_pixels": str(MAX_PIXELS)}
        return stream
    raise DecodeError("no video stream in the file", code="no_video_stream", key=name)


def plain_copy(packet: "av.Packet[av.VideoStream]") -> "av.Packet[av.VideoStream]":
    """A copy of ``packet`` of which the decoder returns the frame even if an edit list hides it."""
    copy = cast("av.Packet[av.VideoStream]", av.Packet(bytes(packet)))
    copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    return copy


def _rank(stream: av.VideoStream) -> tuple[bool, bool, int]:
    context = stream.codec_context
    is_default = bool(stream.disposition & Disposition.default)
    return context is not None, is_default, context.width * context.height if context else 0


def check_size(name: str, width: int, height: int) -> None:
    """Raise DecodeError for frames so large that a few of them would fill the memory."""
    if width * height > MAX_PIXELS:
        raise DecodeError(
            f"a frame of {width}x{height} pixels is larger than {MAX_PIXELS} pixels",
            code="too_large",
            key=name,
            remedy="scale the video down",
        )


def damaged(name: str, problem: str = "the file is cut off") -> DecodeError:
    """The error (``truncated``) of a file whose data is incomplete or broken."""
    return DecodeError(problem, code="truncated", key=name, remedy="copy or download it again")


def _unreadable(name: str, error: OSError) -> DecodeError:
    return DecodeError(f"cannot be read ({error.strerror})", code="not_found", key=name)
