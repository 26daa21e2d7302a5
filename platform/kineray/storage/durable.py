"""Local files that are still there, and whole, after a loss of power."""

import errno
import os
from pathlib import Path

# Of file systems that cannot synchronise a folder, and of folders that may be written but not read.
_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM}


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has its contents, but not its name. Raises OSError."""
    with path.open("wb", buffering=0) as file:
        write_all(file.fileno(), data)
        os.fsync(file.fileno())


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``: a single write may stop short, when a disk is full for example."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in ``folder``, if its file system can do that. Raises OSError."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def make_folder(folder: Path) -> None:
    """Make ``folder`` and those above it, and wait until the disk has them. Raises OSError."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        sync_folder(path.parent)
