"""The packet indexes of a manifest's videos, in one file beside it: ``<manifest>.index.arrow``.

The file is mapped into memory, not read, so it costs as much for a million videos as for ten.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pyarrow as pa

from kineray import storage
from kineray.video.packet_index import VERSION

_SUFFIX = ".index.arrow"
_SCHEMA = pa.schema([("uri", pa.string()), ("index", pa.binary())], {"version": str(VERSION)})


class IndexCache:
    """Packet indexes by the URI of the video."""

    def __init__(self, table: pa.Table, folder: str) -> None:
        self._uris = table["uri"].combine_chunks()
        self._indexes = table["index"].combine_chunks()
        self._folder = folder

    def __len__(self) -> int:
        return len(self._uris)

    @classmethod
    def beside(cls, manifest_uri: str) -> Self | None:
        """The indexes beside a manifest, or None if there are none that can be read."""
        uri = path_of(manifest_uri)
        try:
            if storage.is_remote(uri):
                if not storage.exists(uri):
                    return None
                buffer = pa.py_buffer(storage.read_bytes(uri))
                table = pa.ipc.open_file(buffer).read_all()
            elif Path(uri).exists():
                table = pa.ipc.open_file(pa.memory_map(uri)).read_all()
            else:
                return None
        except pa.ArrowInvalid:
            return None  # a cache that cannot be used is made again
        return cls(table, _folder(uri)) if table.schema.equals(_SCHEMA, check_metadata=True) else None

    def get(self, uri: str) -> bytes | None:
        """``PacketIndex.to_bytes`` of the video at ``uri``, or None if it was not indexed."""
        name = uri.removeprefix(self._folder)
        low, high = 0, len(self._uris)
        while low < high:
            middle = (low + high) // 2
            if self._uris[middle].as_py() < name:
                low = middle + 1
            else:
                high = middle
        if low < len(self._uris) and self._uris[low].as_py() == name:
            index: bytes = self._indexes[low].as_py()
            return index
        return None


def write(manifest_uri: str, indexes: Mapping[str, bytes]) -> str:
    """Write ``PacketIndex.to_bytes`` of videos, by URI, beside a manifest; returns the URI of the file.

    Raises StorageError.
    """
    uri = path_of(manifest_uri)
    folder = _folder(uri)
    rows = sorted((video.removeprefix(folder), index) for video, index in indexes.items())
    columns = [[row[0] for row in rows], [row[1] for row in rows]]
    table = pa.table(columns, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        writer.write_table(table)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
    return uri


def path_of(manifest_uri: str) -> str:
    """The URI of the file with the indexes of a manifest."""
    uri = (
        manifest_uri if manifest_uri.endswith(".parquet") else storage.join(manifest_uri, "manifest.parquet")
    )
    return storage.absolute(uri).removesuffix(".parquet") + _SUFFIX


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0] + "/"
