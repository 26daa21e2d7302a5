"""Where a file ends: whether before it should or with another file, and how long its last frame stays."""

import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
from av.container import InputContainer

from kineray.errors import DecodeError
from kineray.video.container import Source, name_of, size_of
from kineray.video.packet_index import PacketIndex

_EARLY_END_S = 1.0  # a stream that ends earlier than announced by more than this counts as cut off
_HEAD = 4096  # bytes in which a Matroska file begins its segment
_SEGMENT = b"\x18\x53\x80\x67"
_CHUNK = struct.Struct("<4sI")
_CHUNKS = 64  # that are looked at: headers, the frames, the index, and some padding
_TAIL = 2**20  # bytes after the last frame in which the header of another file is looked for
_HEADERS = {
    "flv": rb"FLV\x01.\x00\x00\x00\x09",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
}
_INDEX_ENTRY = 16  # bytes of AVI's index for each chunk, an empty one too


def ends_early(
    source: Source, container: InputContainer, stream: av.VideoStream, last_dts: int | None, end_s: float
) -> bool:
    """Whether the data of ``source``, which lasts until ``end_s``, ends before what its header announces.

    ``last_dts``: decoding time of the last packet.
    """
    name, entries, size_bytes = container.format.name, stream.index_entries, size_of(source)
    if name.startswith("mov") and len(entries):  # MP4 lists every packet by its decoding time
        return last_dts is None or last_dts < entries[-1].timestamp
    if name == "avi":  # the index is the last thing in the file
        chunks = list(_avi_chunks(source, size_bytes))
        return bool(chunks) and chunks[-1][0] != b"idx1" and chunks[-1][2] > size_bytes
    if name.startswith("matroska") and (end := _segment_end(_read(source, 0, _HEAD))) is not None:
        return size_bytes < end
    announced_s = _announced_end_s(stream)
    return announced_s is not None and end_s + _EARLY_END_S < announced_s


def refuse_second_file(source: Source, container: InputContainer, stream: av.VideoStream, end: int) -> None:
    """Raise DecodeError (``joined``) if another file follows, which libav leaves out in silence.

    ``end``: where the last packet ends, in bytes.
    """
    name = container.format.name
    if name.startswith("mov"):
        follows = bool(stream.frames) and _boxes(source).count(b"ftyp") > 1
    else:
        follows = name in _HEADERS and re.search(_HEADERS[name], _read(source, end, _TAIL)) is not None
    if follows:
        raise DecodeError(
            "another file follows after its end, which would be left out",
            code="joined",
            key=name_of(source),
            remedy="divide it into the files that were put together",
        )


def last_duration(
    source: Source,
    container: InputContainer,
    stream: av.VideoStream,
    index: PacketIndex,
    durations: Sequence[int],
) -> int:
    """Duration of the last frame in units of the time base.

    ``durations``: those of the packets, 0 where the file contains none, in which case the frame stays to the
    end of the track, or as long as the one before it.
    """
    pts, own = int(index.shown_pts[-1]), durations[int(index.shown[-1])]
    if container.format.name == "avi":  # what was dropped at the end leaves this frame on the screen
        return max(_avi_slots(source, stream.index) - pts, own, 1)
    stored_last = int(index.shown[-1]) == len(durations) - 1
    if container.format.name.startswith("mov") and not stored_last and len(set(durations)) > 1:
        # MP4's durations are distances in decoding order; the end of the track is that of the presentation.
        own = max((stream.start_time or 0) + (stream.duration or 0) - pts, 0) or own
    announced_s = _announced_end_s(stream)
    if not own and announced_s is not None and not index.truncated:
        own = max(round(announced_s / index.time_base) - pts, 0)
    if not own and index.frames > 1:
        own = pts - int(index.shown_pts[-2])
    return own or max(round(1 / (stream.average_rate or 25) / index.time_base), 1)


def _announced_end_s(stream: av.VideoStream) -> float | None:
    """The end of a Matroska track, from its DURATION tag (``00:00:04.040000000``)."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def _avi_slots(source: Source, stream: int) -> int:
    """How many frames' time the index of an AVI file lists for ``stream``; 0 without an index.

    A slot whose chunk is empty shows the frame before it.
    """
    for name, start, end in _avi_chunks(source, size_of(source)):
        if name == b"idx1":
            index = _read(source, start, end - start)
            names = (index[at : at + 4] for at in range(0, len(index), _INDEX_ENTRY))
            return sum(name in (b"%02ddc" % stream, b"%02ddb" % stream) for name in names)
    return 0


def _avi_chunks(source: Source, size_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the chunks in the first part of an AVI file, as far as the file reaches."""
    at = 12
    for _ in range(_CHUNKS):
        if at + _CHUNK.size > size_bytes:
            return
        name, size = _CHUNK.unpack(_read(source, at, _CHUNK.size))
        at += _CHUNK.size
        yield name, at, at + size
        at += size + size % 2


def _boxes(source: Source) -> list[bytes]:
    """The names of the first boxes of an MP4 file."""
    names: list[bytes] = []
    at = 0
    for _ in range(_CHUNKS):
        head = _read(source, at, 16)
        if len(head) < 16:
            break
        size = int.from_bytes(head[:4])
        names.append(head[4:8])
        at += int.from_bytes(head[8:]) if size == 1 else max(size, 8)
        if size == 0:  # up to the end of the file
            break
    return names


def _segment_end(head: bytes) -> int | None:
    """Where the segment of a Matroska file ends, in bytes; None if it was recorded without knowing that."""
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return None
    length = 9 - head[at].bit_length()  # the zeros before the first one tell the length of the number
    size = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
    return None if size == (1 << 7 * length) - 1 else at + length + size


def _read(source: Source, start: int, size: int) -> bytes:
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            file.seek(start)
            return file.read(size)
    source.seek(start)
    return source.read(size)
