"""Whether a file ends before it should."""

from pathlib import Path

import av

from kineray.video.container import Source

_EARLY_END_S = 1.0  # a stream that ends earlier than announced by more than this counts as cut off
_HEAD = 4096  # bytes in which a Matroska file begins its segment
_SEGMENT = b"\x18\x53\x80\x67"


def ends_early(
    source: Source,
    size_bytes: int,
    container: str,
    stream: av.VideoStream,
    last_dts: int | None,
    end_s: float,
) -> bool:
    """Whether the data of ``source``, which lasts until ``end_s``, ends before what its header announces.

    ``container``: name of the format; ``last_dts``: decoding time of the last packet.
    """
    entries = stream.index_entries
    if container.startswith("mov") and len(entries):  # MP4 lists every packet by its decoding time
        return last_dts is None or last_dts < entries[-1].timestamp
    if container.startswith("matroska") and (end := _segment_end(head_of(source))) is not None:
        return size_bytes < end
    announced_s = announced_end_s(stream)
    return announced_s is not None and end_s + _EARLY_END_S < announced_s


def announced_end_s(stream: av.VideoStream) -> float | None:
    """The end of a Matroska track, from its DURATION tag (``00:00:04.040000000``)."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, seconds = (float(part) for part in parts)
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds


def head_of(source: Source) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return file.read(_HEAD)
    source.seek(0)
    return source.read(_HEAD)


def _segment_end(head: bytes) -> int | None:
    """Where the segment of a Matroska file ends, in bytes; None if it was recorded without knowing that."""
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return None
    length = 9 - head[at].bit_length()  # the zeros before the first one tell the length of the number
    size = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
    return None if size == (1 << 7 * length) - 1 else at + length + size
