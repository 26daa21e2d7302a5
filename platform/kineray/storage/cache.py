"""A folder of fetched files, limited in size, shared by all processes and threads of a host.

::

    objects/ab/cdef.mp4   complete files; each has a shared lock while it is in use
    parts/abcdef          files that are being fetched, each under an exclusive lock of its writer
    used                  the total size of all these in bytes, changed under an exclusive lock

Locks are those of flock(2), which the kernel releases when a process dies. A complete file is renamed to its
name. The least recently used files make room for new ones.
"""

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kineray.errors import ConfigError, StorageError
from kineray.storage.durable import write_all
from kineray.storage.os_errors import os_errors_about
from kineray.storage.sizes import bytes_of

DEFAULT_BYTES = 100 * 10**9  # the limit where half of the disk's free space is more than this

_REMEDY = "free some space there, or set KINERAY_CACHE to another folder"
_KEPT = 0.9  # of the limit is kept when it is exceeded, so that the folder is listed only now and then


@dataclass(frozen=True)
class Cache:
    """The cache in ``folder``. ``limit_bytes``: None for half of the free space, at most DEFAULT_BYTES."""

    folder: Path
    limit_bytes: int | None = None

    def capacity(self) -> int:
        """The current limit in bytes."""
        if self.limit_bytes is not None:
            return self.limit_bytes
        with self._os_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            used = self.folder / "used"
            return min(DEFAULT_BYTES, (free + (_number(used.read_bytes()) if used.exists() else 0)) // 2)

    @contextmanager
    def hold(self, name: str, fetch: "Callable[[Part], None]") -> Iterator[Path]:
        """The path of the file ``name``, which is not removed inside the context.

        If the file is missing, ``fetch`` writes it in one process while all others wait. Names come from
        ``name_of``. Raises StorageError, and what ``fetch`` raises.
        """
        descriptor = self.open(name, fetch)
        try:
            yield self._path(name)
        finally:
            self.close(descriptor, name)

    def open(self, name: str, fetch: "Callable[[Part], None]") -> int:
        """Like ``hold``, but returns a descriptor to read from, to be passed to ``close``."""
        with self._os_errors():
            while True:
                held = self.find(name)
                if held is None and (part := self._lock_part(name, wait=True)) is not None:
                    held = self._fill(name, part, fetch)
                if held is not None:
                    return held

    def find(self, name: str) -> int | None:
        """A descriptor of the file ``name`` as from ``open``, or None if it is not in the cache."""
        with self._os_errors(), suppress(FileNotFoundError):
            return self._shared(os.open(self._path(name), os.O_RDWR | os.O_CLOEXEC))
        return None

    def has(self, name: str) -> bool:
        """Whether the file ``name`` is in the cache."""
        return self._path(name).exists()

    def close(self, descriptor: int, name: str) -> None:
        """End the use of a file. A file larger than the whole cache is removed with its last user."""
        try:
            with self._os_errors():
                if os.fstat(descriptor).st_size > self.capacity():
                    _remove_unused(self._path(name), descriptor)
        finally:
            os.close(descriptor)

    def put(self, name: str, data: bytes) -> None:
        """Store ``data`` as ``name``, unless the file exists, is being fetched, or does not fit."""

        def fetch(part: Part) -> None:
            part.reserve(len(data))
            part.write(data)

        with suppress(StorageError), self._os_errors():
            part = self._lock_part(name, wait=False) if len(data) <= self.capacity() else None
            if part is not None and (descriptor := self._fill(name, part, fetch)) is not None:
                os.close(descriptor)

    def forget(self, name: str) -> None:
        """Remove a file; processes that use it can read it to the end."""
        with self._os_errors(), suppress(FileNotFoundError), self._used() as used:
            size = self._path(name).stat().st_size
            self._path(name).unlink()
            used.bytes -= size

    def _path(self, name: str) -> Path:
        return self.folder / "objects" / name[:2] / name[2:]

    def _part_path(self, name: str) -> Path:
        return self.folder / "parts" / name

    def _lock_part(self, name: str, *, wait: bool) -> int | None:
        """The part of ``name``, locked; None if another process has it, or had it while we waited."""
        path = self._part_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            locked = _lock(descriptor)
            if not locked and wait:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                locked = True
            # The previous owner of the lock has renamed or removed the file, unless it died.
            if locked and _is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _fill(self, name: str, descriptor: int, fetch: "Callable[[Part], None]") -> int | None:
        """Fetch into a locked part and rename it to ``name``: a descriptor as from ``open``.

        None if another process was faster: look for the file again.
        """
        path, part, done = self._path(name), Part(self, self._part_path(name), descriptor), False
        try:
            if not path.exists():
                os.ftruncate(descriptor, 0)
                fetch(part)
                os.fsync(descriptor)  # a name must not outlive its content when the host loses power
                path.parent.mkdir(parents=True, exist_ok=True)
                part.path.rename(path)
                done = True
        finally:
            if not done:
                part.discard()
                os.close(descriptor)
        return self._shared(descriptor) if done else None

    def _shared(self, descriptor: int) -> int | None:
        """``descriptor``, locked and marked as used now; closed, and None, if its file is removed."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                os.utime(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    @contextmanager
    def _used(self) -> Iterator["_Used"]:
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            used = _Used(_number(os.pread(descriptor, 32, 0)))
            yield used
            os.pwrite(descriptor, b"%020d" % max(used.bytes, 0), 0)
        finally:
            os.close(descriptor)

    def _listed(self) -> list[tuple[int, int, str]]:
        """(time of last use in ns, bytes, path) of every file; the time is 0 while it is being fetched."""
        found = []
        for path in (self.folder / "parts").glob("*"):
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if not _remove_unused(path, descriptor):  # else: of a process that died
                        found.append((0, os.fstat(descriptor).st_size, str(path)))
                finally:
                    os.close(descriptor)
        for folder in (self.folder / "objects").glob("*"):
            with os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
        return found

    def _evict(self, missing: int) -> int:
        """Remove the least recently used files; returns the bytes that are left.

        ``missing``: bytes that the disk lacks for a new file.
        """
        listed = self._listed()
        total = sum(size for _, size, _ in listed)
        fetched = sum(size for last_use, size, _ in listed if last_use)
        goal = total - missing if missing <= fetched else total  # else: removing all would not be enough
        if total > (limit := self.capacity()):
            goal = min(goal, int(limit * _KEPT))
        for last_use, size, path in sorted(listed):
            if total <= goal:
                break
            if last_use == 0:
                continue
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    total -= size if _remove_unused(Path(path), descriptor) else 0
                finally:
                    os.close(descriptor)
        return total

    def _os_errors(self) -> AbstractContextManager[None]:
        return os_errors_about(self.folder, remedy=_REMEDY)


class Part:
    """A file that is being fetched: its size is reserved, then its bytes are written."""

    def __init__(self, cache: Cache, path: Path, descriptor: int) -> None:
        self.path = path
        self._cache, self._descriptor, self._reserved = cache, descriptor, 0

    def reserve(self, size: int) -> None:
        """Make room for ``size`` bytes; for a file larger than the whole cache, no other file is removed."""
        cache = self._cache
        with cache._os_errors(), cache._used() as used:
            os.ftruncate(self._descriptor, size)
            limit = cache.capacity()
            if size <= limit:
                used.bytes += size
                self._reserved = size
            missing = max(size - shutil.disk_usage(cache.folder).free, 0)
            if (size <= limit < used.bytes) or missing:
                used.bytes = cache._evict(missing)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        with self._cache._os_errors():
            write_all(self._descriptor, data)

    def discard(self) -> None:
        """Remove a file whose fetch failed; if that is impossible now, it is removed when room is made."""
        with suppress(OSError), self._cache._used() as used:
            self.path.unlink(missing_ok=True)
            used.bytes -= self._reserved


@dataclass
class _Used:
    bytes: int


def from_environment() -> Cache:
    """The cache in ``KINERAY_CACHE`` (default ``~/.cache/kineray``) of ``KINERAY_CACHE_SIZE``, such as 50GB.

    Raises ConfigError for a malformed size.
    """
    folder = Path(os.environ.get("KINERAY_CACHE") or Path.home() / ".cache" / "kineray")
    text = os.environ.get("KINERAY_CACHE_SIZE", "").strip()
    try:
        return Cache(folder, bytes_of(text) if text else None)
    except ValueError:
        raise ConfigError(
            "not a size",
            code="bad_value",
            key="KINERAY_CACHE_SIZE",
            value=text,
            remedy="write it like 50GB or 500MB",
        ) from None


def name_of(*parts: object, suffix: str = "") -> str:
    """The name in a cache of the content that ``parts`` identify; ``suffix``: file extension to keep."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
    return digest + (suffix if re.fullmatch(r"\.\w{1,10}", suffix) else "")


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    """Take an exclusive lock; returns False if another descriptor of the file has a lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path, descriptor: int) -> bool:
    """Remove the file at ``path``, open as ``descriptor``; returns False if it is in use."""
    if not _lock(descriptor):
        return False
    if _is_at(descriptor, path):
        path.unlink()
    return True


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() else 0
