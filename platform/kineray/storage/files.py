"""Files and folders by URI: local paths, and ``s3://bucket/key`` on any S3-compatible endpoint.

The endpoint and the credentials come from boto3's settings: ``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` and so on.
Every function raises StorageError, whose ``key`` is the path or URI.
"""

import io
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from kineray.errors import DecodeError, StorageError
from kineray.storage import s3
from kineray.storage.cache import Cache, Part, from_environment, name_of
from kineray.storage.durable import make_folder, sync_folder, write_file
from kineray.storage.os_errors import os_errors_about
from kineray.storage.remote_file import RemoteFile, RemoteObject, recall, remember
from kineray.storage.s3 import retry_for

__all__ = [
    "absolute",
    "check_writable",
    "create_folder",
    "delete_file",
    "delete_folder",
    "exists",
    "file_sizes",
    "get_folder",
    "is_remote",
    "join",
    "list_files",
    "list_names",
    "local_file",
    "prefetch",
    "put_folder",
    "read_bytes",
    "relative",
    "retry_for",
    "video_source",
    "write_bytes",
]

MAX_WHOLE_BYTES = 64 * 2**20  # a larger object is not fetched whole, but in the blocks that are read

_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUFFER = 2**16  # bytes


def is_remote(uri: str | Path) -> bool:
    """Whether ``uri`` names an object store rather than a local path.

    Raises StorageError for ``s3://`` without a bucket and for every other scheme, such as ``gs://``.
    """
    text = str(uri)
    if text.startswith(s3.SCHEME):
        s3.bucket_and_key(text)
        return True
    scheme = _ANY_SCHEME.match(text)
    if scheme:
        raise StorageError(
            f"{scheme[0]} is not supported",
            code="bad_uri",
            key=text,
            remedy="use a local path or s3://bucket/key",
        )
    return False


def join(uri: str | Path, *parts: str) -> str:
    """``uri`` with ``parts`` appended, as a string."""
    if is_remote(uri):
        return "/".join([str(uri).rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(uri, *parts))


def absolute(uri: str | Path) -> str:
    """``uri`` as an absolute path or URI."""
    return str(uri) if is_remote(uri) else str(Path(uri).absolute())


def relative(uri: str | Path, folder: str | Path) -> str | None:
    """The path of ``uri`` below ``folder``, with slashes; None if it is not in it."""
    inside = absolute(folder).rstrip("/") + "/"
    text = absolute(uri)
    return text.removeprefix(inside) if text.startswith(inside) else None


def exists(uri: str | Path) -> bool:
    """Whether ``uri`` is a file or a folder; on S3, a folder is a prefix of some object."""
    if not is_remote(uri):
        return Path(uri).exists()
    _, key = s3.bucket_and_key(str(uri))
    return any(name == key or name.startswith(_folder(key)) for name in _keys(str(uri), key))


def list_names(uri: str | Path) -> list[str]:
    """Names of the files and folders directly in ``uri``, sorted; an empty list if it does not exist."""
    if not is_remote(uri):
        with os_errors_about(uri):
            return sorted(child.name for child in Path(uri).iterdir()) if Path(uri).is_dir() else []
    _, key = s3.bucket_and_key(str(uri))
    names: set[str] = set()
    for page in _pages(str(uri), Prefix=_folder(key), Delimiter="/"):
        children = [item["Key"] for item in page.get("Contents", ())]
        children += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
        names.update(child.removeprefix(_folder(key)).rstrip("/") for child in children)
    return sorted(names - {""})


def list_files(uri: str | Path) -> list[str]:
    """Paths, relative to ``uri``, of all files below it, sorted; an empty list if it does not exist.

    Links to folders are followed, except one to a folder that it lies in.
    """
    if not is_remote(uri):
        root = Path(uri)
        with os_errors_about(uri):
            found = []
            for folder, folders, names in os.walk(root, onerror=_unless_gone, followlinks=True):
                folders[:] = [name for name in folders if not _leads_back(folder, name)]
                found += [Path(folder, name).relative_to(root).as_posix() for name in names]
            return sorted(found)
    _, key = s3.bucket_and_key(str(uri))
    return sorted(name.removeprefix(_folder(key)) for name in _keys(str(uri), _folder(key)))


def _leads_back(folder: str, name: str) -> bool:
    """Whether ``name`` in ``folder`` is a link to a folder that it lies in."""
    path = Path(folder, name)
    return path.is_symlink() and Path(folder).resolve().is_relative_to(path.resolve())


def _unless_gone(error: OSError) -> None:
    """Raise ``error``, which os.walk would ignore, unless the folder does not exist or is a file."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def file_sizes(uris: Iterable[str]) -> dict[str, int]:
    """Sizes in bytes, by URI, of the files that exist; the objects of a bucket are listed together."""
    sizes: dict[str, int] = {}
    remote: dict[str, dict[str, str]] = {}  # bucket -> key -> URI
    for uri in uris:
        if is_remote(uri):
            bucket, key = s3.bucket_and_key(uri)
            remote.setdefault(bucket, {})[key] = uri
        else:
            with os_errors_about(uri), suppress(FileNotFoundError, NotADirectoryError):
                sizes[uri] = Path(uri).stat().st_size
    for keys in remote.values():
        first, last = min(keys), max(keys)  # all keys share the prefix that these two share
        shared = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        for page in _pages(keys[first], Prefix=first[:shared]):
            for item in page.get("Contents", ()):
                if item["Key"] in keys:
                    sizes[keys[item["Key"]]] = item["Size"]
    return sizes


def read_bytes(uri: str | Path) -> bytes:
    """The contents of a file."""
    if not is_remote(uri):
        with os_errors_about(uri):
            return Path(uri).read_bytes()
    pieces: list[bytes] = []
    s3.get(str(uri), pieces.append)
    return b"".join(pieces)


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write a file; a reader sees the old contents or the new, never a part, also after a loss of power."""
    if is_remote(uri):
        bucket, key = s3.bucket_and_key(str(uri))
        s3.call(str(uri), "put_object", Bucket=bucket, Key=key, Body=data)
        return
    with os_errors_about(uri):
        path = Path(uri)
        make_folder(path.parent)
        with _temporary_name(path) as temporary:
            write_file(temporary, data)
            temporary.replace(path)
        sync_folder(path.parent)


def create_folder(uri: str | Path, name: str, data: bytes) -> bool:
    """Create a folder with the file ``name`` in it; False if there is a folder or file of that name already.

    Of several processes that try at the same time, on any hosts, one gets True.
    """
    if not is_remote(uri):
        folder = Path(uri)
        with os_errors_about(uri):
            make_folder(folder.parent)
            try:
                folder.mkdir()
            except FileExistsError:
                return False
        try:
            write_bytes(folder / name, data)
        except BaseException:
            delete_folder(folder)
            raise
        return True
    if exists(uri):
        return False
    path = join(uri, name)
    bucket, key = s3.bucket_and_key(path)
    try:
        s3.call(path, "put_object", Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
    except s3.ReplacedError:
        return False
    return True


def check_writable(uri: str | Path) -> None:
    """Raise StorageError if no file can be written at ``uri``: to find out now, not after hours of work."""
    if not is_remote(uri) and Path(uri).is_dir():
        raise StorageError("a folder", code="not_a_file", key=uri, remedy="name a file in it")
    probe = f"{uri}.{uuid.uuid4().hex}.tmp"
    try:
        write_bytes(probe, b"")
    except StorageError as error:
        raise StorageError(error.problem, code=error.code, key=uri, remedy=error.remedy) from None
    delete_file(probe)


def put_folder(local: str | Path, uri: str, *, commit_last: str = "state.json") -> None:
    """Upload the folder ``local`` to ``uri`` on S3, replacing the folder there.

    The file ``commit_last`` is removed first and uploaded last, so a folder that contains it is complete.
    """
    bucket, key = _remote(uri)
    new = list_files(local)
    stale = set(list_files(uri)) - set(new)
    s3.call(uri, "delete_object", Bucket=bucket, Key=_folder(key) + commit_last)
    for name in sorted(new, key=lambda name: name == commit_last):
        path = Path(local, name)
        with os_errors_about(path):
            s3.call(uri, "upload_file", Filename=str(path), Bucket=bucket, Key=_folder(key) + name)
    for name in stale:
        s3.call(uri, "delete_object", Bucket=bucket, Key=_folder(key) + name)


def get_folder(uri: str, local: str | Path) -> None:
    """Download the folder ``uri`` on S3 to ``local``, under a temporary name that is then renamed."""
    local = Path(local)
    _remote(uri)
    names = list_files(uri)
    if not names:
        raise StorageError("no such folder, or nothing in it", code="not_found", key=uri)
    with os_errors_about(local), _temporary_name(local) as temporary:
        for name in names:
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                s3.get(join(uri, name), file.write)
        if local.exists():
            shutil.rmtree(local)
        temporary.replace(local)


def delete_folder(uri: str | Path) -> None:
    """Remove a folder and everything in it, if it exists."""
    if not is_remote(uri):
        with os_errors_about(uri):
            if Path(uri).exists():
                shutil.rmtree(uri)
        return
    bucket, key = s3.bucket_and_key(str(uri))
    for name in list(_keys(str(uri), _folder(key))):
        s3.call(str(uri), "delete_object", Bucket=bucket, Key=name)


def delete_file(uri: str | Path) -> None:
    """Remove a file, if it exists."""
    if not is_remote(uri):
        with os_errors_about(uri):
            Path(uri).unlink(missing_ok=True)
        return
    bucket, key = s3.bucket_and_key(str(uri))
    s3.call(str(uri), "delete_object", Bucket=bucket, Key=key)


@contextmanager
def local_file(uri: str | Path) -> Iterator[Path]:
    """A local file with the contents of ``uri``: the file itself, or a copy in the cache.

    All processes of a host download an object once, into ``$KINERAY_CACHE`` or ``~/.cache/kineray``, and read
    it from there afterwards: it is assumed not to change. Beyond ``$KINERAY_CACHE_SIZE``, such as 50GB
    (default: half of the disk's free space, at most 100GB), the least recently used files are removed.
    Raises ConfigError for a malformed size.
    """
    if not is_remote(uri):
        yield Path(uri)
        return
    with from_environment().hold(_cache_name(str(uri)), partial(_fetch_whole, str(uri), None)) as path:
        yield path


@contextmanager
def video_source(uri: str | Path, *, max_whole_bytes: int = MAX_WHOLE_BYTES) -> Iterator[Path | BinaryIO]:
    """The path or binary file from which a decoder reads ``uri``; an object is read through the cache.

    An object of at most ``max_whole_bytes`` is fetched whole, as by ``local_file``. A larger one is a binary
    file named ``uri``, and only the blocks that are read are fetched. Raises as ``local_file``; reading also
    raises StorageError if the object was replaced, so that two versions are never mixed.

    A DecodeError about the path in the cache is raised again as one about ``uri``.
    """
    if not is_remote(uri):
        yield Path(uri)
        return
    cache = from_environment()
    with ExitStack() as held:
        source = _small_or_large(str(uri), cache, max_whole_bytes, held)
        if isinstance(source, RemoteObject):
            yield held.enter_context(io.BufferedReader(RemoteFile(source, cache), _BUFFER))
            return
        try:
            yield source
        except DecodeError as error:
            if error.key != str(source):
                raise
            raise DecodeError(error.problem, code=error.code, key=uri, remedy=error.remedy) from None


def prefetch(uri: str | Path) -> None:
    """Fetch an object into the cache, if ``video_source`` would fetch it whole. Raises StorageError."""
    if is_remote(uri):
        with ExitStack() as held:
            _small_or_large(str(uri), from_environment(), MAX_WHOLE_BYTES, held)


class _TooLargeError(Exception):
    """The object ``remote`` is too large to be fetched whole."""

    def __init__(self, remote: RemoteObject) -> None:
        super().__init__()
        self.remote = remote


def _small_or_large(uri: str, cache: Cache, max_whole_bytes: int, held: ExitStack) -> Path | RemoteObject:
    """The path of an object in the cache, until ``held`` ends, or the object if it is too large."""
    name = _cache_name(uri)
    at_most = min(max_whole_bytes, cache.capacity())
    large = None if cache.has(name) else recall(uri, cache)
    if large is not None and large.size > at_most:
        return large
    try:
        return held.enter_context(cache.hold(name, partial(_fetch_whole, uri, at_most)))
    except _TooLargeError as error:
        remember(error.remote, cache)
        return error.remote


def _fetch_whole(uri: str, at_most: int | None, part: Part) -> None:
    """Download an object into ``part``; raises _TooLargeError before the first byte if it is larger."""

    def begin(size: int, etag: str) -> None:
        if at_most is not None and size > at_most:
            raise _TooLargeError(RemoteObject(uri, size, etag))
        part.reserve(size)

    s3.get(uri, part.write, begin=begin)


def _cache_name(uri: str) -> str:
    # Buckets of different servers may have the same name.
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    return name_of(server, uri, suffix=Path(uri).suffix)


def _remote(uri: str) -> tuple[str, str]:
    if not is_remote(uri):
        raise StorageError("not in a bucket", code="bad_uri", key=uri, remedy="write s3://bucket/key")
    return s3.bucket_and_key(uri)


def _folder(key: str) -> str:
    return f"{key}/" if key else ""


def _keys(uri: str, prefix: str) -> Iterator[str]:
    for page in _pages(uri, Prefix=prefix):
        yield from (item["Key"] for item in page.get("Contents", ()))


def _pages(uri: str, **arguments: str) -> Iterator[dict[str, Any]]:
    """The pages of a listing of ``uri``'s bucket."""
    bucket, _ = s3.bucket_and_key(uri)
    token: dict[str, str] = {}
    while True:
        page = s3.call(uri, "list_objects_v2", Bucket=bucket, **arguments, **token)
        yield page
        if not page.get("IsTruncated"):
            return
        token = {"ContinuationToken": page["NextContinuationToken"]}


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that no other writer uses; whatever is left under it is removed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
