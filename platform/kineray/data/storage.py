"""Files and folders by URI: local paths and ``s3://bucket/key``, on any S3-compatible endpoint.

The endpoint and the credentials are boto3's own: ``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` and so on.
Every function raises StorageError, which names the path or the bucket and key.
"""

import functools
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kineray.errors import StorageError

_SCHEME = "s3://"
_ANY_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(uri: str | Path) -> bool:
    """Whether ``uri`` names an object store rather than a local path.

    Raises StorageError for ``s3://`` without a bucket and for every other scheme, such as ``gs://``.
    """
    text = str(uri)
    if text.startswith(_SCHEME):
        _bucket_and_key(text)
        return True
    scheme = _ANY_SCHEME.match(text)
    if scheme:
        raise StorageError(f"{text}: {scheme[0]} is not supported; use a local path or s3://bucket/key")
    return False


def join(uri: str | Path, *parts: str) -> str:
    """``uri`` with ``parts`` appended, as a string."""
    if is_remote(uri):
        return "/".join([str(uri).rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(uri, *parts))


def absolute(uri: str | Path) -> str:
    """``uri`` in a form that means the same from every working directory."""
    return str(uri) if is_remote(uri) else str(Path(uri).absolute())


def exists(uri: str | Path) -> bool:
    """Whether a file, or a folder with something in it, lies at ``uri``."""
    if not is_remote(uri):
        return Path(uri).exists()
    bucket, key = _bucket_and_key(uri)
    return any(name == key or name.startswith(_folder(key)) for name in _keys(bucket, key))


def list_names(uri: str | Path) -> list[str]:
    """Names of the files and folders directly in ``uri``, sorted; none if it does not exist."""
    if not is_remote(uri):
        with _explained(uri):
            return sorted(child.name for child in Path(uri).iterdir()) if Path(uri).is_dir() else []
    bucket, key = _bucket_and_key(uri)
    names: set[str] = set()
    with _explained(uri):
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=_folder(key), Delimiter="/"):
            children = [item["Key"] for item in page.get("Contents", ())]
            children += [item["Prefix"] for item in page.get("CommonPrefixes", ())]
            names.update(child.removeprefix(_folder(key)).rstrip("/") for child in children)
    return sorted(names - {""})


def list_files(uri: str | Path) -> list[str]:
    """Paths, relative to ``uri``, of all files below it, sorted; none if it does not exist."""
    if not is_remote(uri):
        root = Path(uri)
        with _explained(uri):
            return sorted(
                Path(folder, name).relative_to(root).as_posix()
                for folder, _, names in os.walk(root, followlinks=True)
                for name in names
            )
    bucket, key = _bucket_and_key(uri)
    return sorted(name.removeprefix(_folder(key)) for name in _keys(bucket, _folder(key)))


def read_bytes(uri: str | Path) -> bytes:
    """The contents of a file."""
    with _explained(uri):
        if not is_remote(uri):
            return Path(uri).read_bytes()
        bucket, key = _bucket_and_key(uri)
        body: bytes = _client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


def write_bytes(uri: str | Path, data: bytes) -> None:
    """Write a file so that a reader sees the old contents or the new, never a part."""
    with _explained(uri):
        if is_remote(uri):
            bucket, key = _bucket_and_key(uri)
            _client().put_object(Bucket=bucket, Key=key, Body=data)
            return
        path = Path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary_name(path) as temporary:
            temporary.write_bytes(data)
            temporary.replace(path)


def put_folder(local: str | Path, uri: str | Path, *, commit_last: str = "state.json") -> None:
    """Copy the folder ``local`` to ``uri``, replacing what is there.

    On S3 the file named ``commit_last`` is removed first and uploaded last, so that a folder that
    holds it is complete. A local folder is copied under a temporary name and renamed.
    """
    local = Path(local)
    with _explained(uri):
        if not is_remote(uri):
            target = Path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_name(target) as temporary:
                shutil.copytree(local, temporary)
                if target.exists():
                    shutil.rmtree(target)
                temporary.replace(target)
            return
        bucket, key = _bucket_and_key(uri)
        client = _client()
        client.delete_object(Bucket=bucket, Key=_folder(key) + commit_last)
        new = list_files(local)
        stale = set(list_files(uri)) - set(new)
        for name in sorted(new, key=lambda name: name == commit_last):
            client.upload_file(str(local / name), bucket, _folder(key) + name)
        for name in stale:
            client.delete_object(Bucket=bucket, Key=_folder(key) + name)


def get_folder(uri: str | Path, local: str | Path) -> None:
    """Copy the folder ``uri`` to the local folder ``local``, under a temporary name that is then renamed."""
    local = Path(local)
    names = list_files(uri)
    if not names:
        raise StorageError(f"{uri}: no such folder, or nothing in it")
    with _explained(uri), _temporary_name(local) as temporary:
        for name in names:
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_remote(uri):
                bucket, key = _bucket_and_key(join(uri, name))
                _client().download_file(bucket, key, str(path))
            else:
                shutil.copyfile(Path(uri, name), path)
        if local.exists():
            shutil.rmtree(local)
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(local)


def delete_folder(uri: str | Path) -> None:
    """Remove a folder and everything in it; nothing happens if it does not exist."""
    with _explained(uri):
        if not is_remote(uri):
            if Path(uri).exists():
                shutil.rmtree(uri)
            return
        bucket, key = _bucket_and_key(uri)
        for name in list(_keys(bucket, _folder(key))):
            _client().delete_object(Bucket=bucket, Key=name)


def delete_file(uri: str | Path) -> None:
    """Remove a file; nothing happens if it does not exist."""
    with _explained(uri):
        if not is_remote(uri):
            Path(uri).unlink(missing_ok=True)
            return
        bucket, key = _bucket_and_key(uri)
        _client().delete_object(Bucket=bucket, Key=key)


def local_copy(uri: str | Path) -> Path:
    """A local file with the contents of ``uri``: itself, or a download.

    A remote object is downloaded once, to ``$KINERAY_CACHE`` or ``~/.cache/kineray``, and taken from
    there afterwards: it is assumed not to change.
    """
    if not is_remote(uri):
        return Path(uri)
    bucket, key = _bucket_and_key(uri)
    cache = Path(os.environ.get("KINERAY_CACHE") or Path.home() / ".cache" / "kineray")
    digest = hashlib.sha256(str(uri).encode()).hexdigest()
    path = cache / digest[:2] / f"{digest[2:]}{Path(key).suffix}"
    if not path.exists():
        with _explained(uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _temporary_name(path) as temporary:
                _client().download_file(bucket, key, str(temporary))
                temporary.replace(path)
    return path


def _bucket_and_key(uri: str | Path) -> tuple[str, str]:
    bucket, _, key = str(uri).removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise StorageError(f"{uri}: no bucket; write s3://bucket/key")
    return bucket, key.rstrip("/")


def _folder(key: str) -> str:
    return f"{key}/" if key else ""


def _keys(bucket: str, prefix: str) -> Iterator[str]:
    with _explained(f"{_SCHEME}{bucket}/{prefix}"):
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=prefix):
            yield from (item["Key"] for item in page.get("Contents", ()))


@functools.cache
def _client_of(_process: int) -> Any:
    import boto3
    from botocore.config import Config

    retries = {"max_attempts": 5, "mode": "standard"}
    config = Config(retries=retries, connect_timeout=10, read_timeout=60)
    try:
        return boto3.Session().client("s3", config=config)
    except ValueError as error:
        raise StorageError(f"S3: {error}; AWS_ENDPOINT_URL must be like http://host:9000") from None


def _client() -> Any:
    # A client is safe to share between threads, not between a process and its fork.
    return _client_of(os.getpid())


@contextmanager
def _temporary_name(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that no other writer uses; what is left under it is removed."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


@contextmanager
def _explained(uri: str | Path) -> Iterator[None]:
    """Turn an operating system's or S3's error into one line that names ``uri``."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror or error}") from None
    except Exception as error:
        # boto3 is slow to import and local paths do not need it, so its errors are told by their module.
        if not type(error).__module__.startswith(("botocore", "boto3")):
            raise
        code = getattr(error, "response", {}).get("Error", {}).get("Code", "")
        reasons = {
            "404": "no such object",
            "NoSuchKey": "no such object",
            "NoSuchBucket": "no such bucket; create it or check the name",
            "403": "access denied; check the credentials",
            "AccessDenied": "access denied; check the credentials",
        }
        reason = reasons.get(code) or " ".join(str(error).split())
        raise StorageError(f"{uri}: {reason}") from None
