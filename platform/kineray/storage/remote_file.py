"""A large object as a file; only the blocks that are read are fetched."""

import io
import json
import os
from collections import OrderedDict
from dataclasses import dataclass

from kineray.storage import s3
from kineray.storage.cache import Cache, Part, name_of

BLOCK = 2 * 2**20  # bytes

_MOST_AHEAD = 4  # most blocks in a request; it starts at one and doubles while the file is read in order
_OPEN_BLOCKS = 8


@dataclass(frozen=True)
class RemoteObject:
    """One version of an object. ``size``: bytes. ``etag``: entity tag, which changes with the content."""

    uri: str
    size: int
    etag: str


def recall(uri: str, cache: Cache) -> RemoteObject | None:
    """The version of an object that ``remember`` stored, or None."""
    name = _version_name(uri)
    descriptor = cache.find(name)
    if descriptor is None:
        return None
    try:
        return RemoteObject(uri, **json.loads(os.pread(descriptor, 4096, 0)))
    finally:
        cache.close(descriptor, name)


def remember(remote: RemoteObject, cache: Cache) -> None:
    """Store the version of an object in the cache, so that all processes read the same one."""
    content = json.dumps({"size": remote.size, "etag": remote.etag})
    cache.put(_version_name(remote.uri), content.encode())


class RemoteFile(io.RawIOBase):
    """``remote`` as a seekable file for reading. Its blocks are kept in ``cache``, shared by all processes.

    Reading raises StorageError; ReplacedError once the object is no longer ``remote``.
    """

    def __init__(self, remote: RemoteObject, cache: Cache) -> None:
        self.name = remote.uri
        self._remote, self._cache, self._at = remote, cache, 0
        self._blocks: OrderedDict[int, int] = (
            OrderedDict()
        )  # number -> descriptor, the most recently used last
        self._last, self._ahead = -1, 1

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._remote.size}
        if whence not in start or start[whence] + offset < 0:
            raise ValueError(f"{self.name}: cannot seek to {offset} ({whence})")
        self._at = start[whence] + offset
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Read into ``buffer``, at most to the end of a block; returns the number of bytes, 0 at the end."""
        number, offset = divmod(self._at, BLOCK)
        wanted = min(len(buffer), BLOCK - offset, self._remote.size - self._at)
        if wanted <= 0:
            return 0
        read = os.preadv(self._block(number), [memoryview(buffer)[:wanted]], offset)
        self._at += read
        return read

    def close(self) -> None:
        for number in list(self._blocks):
            self._cache.close(self._blocks.pop(number), self._block_name(number))
        super().close()

    def _block_name(self, number: int) -> str:
        remote = self._remote
        return name_of(remote.uri, remote.etag, remote.size, BLOCK, number, suffix=".block")

    def _block(self, number: int) -> int:
        """A descriptor of block ``number``."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._ahead = min(self._ahead * 2, _MOST_AHEAD) if number == self._last + 1 else 1
        self._last = number
        descriptor = self._cache.open(self._block_name(number), lambda part: self._fetch(number, part))
        self._blocks[number] = descriptor
        if len(self._blocks) > _OPEN_BLOCKS:
            oldest, other = self._blocks.popitem(last=False)
            self._cache.close(other, self._block_name(oldest))
        return descriptor

    def _fetch(self, number: int, part: Part) -> None:
        """Fetch a block and, if the file is read in order, the blocks after it up to one that is cached."""
        remote, first = self._remote, number * BLOCK
        count = 1
        while count < self._ahead and not self._cache.has(self._block_name(number + count)):
            count += 1
        stop = min(first + count * BLOCK, remote.size)
        data = bytearray()
        try:
            s3.get(remote.uri, data.extend, begin=self._check, first=first, stop=stop, etag=remote.etag)
        except s3.ReplacedError:
            self._cache.forget(_version_name(remote.uri))  # the next reader gets the new version
            raise
        block = bytes(data[:BLOCK])
        part.reserve(len(block))
        part.write(block)
        for following in range(1, -(-len(data) // BLOCK)):
            piece = bytes(data[following * BLOCK : (following + 1) * BLOCK])
            self._cache.put(self._block_name(number + following), piece)

    def _check(self, size: int, _etag: str) -> None:
        if size != self._remote.size:
            raise s3.ReplacedError(self.name)


def _version_name(uri: str) -> str:
    return name_of(uri, "version", suffix=".json")
