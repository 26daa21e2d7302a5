"""Where snapshots are: a folder of each run in a file system in memory. Imports nothing slow."""

import contextlib
import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")  # on every Linux

_ABANDONED_S = 3600.0  # what no process holds for this long belongs to a run that was killed


def snapshot_folder(run_id: str) -> Path:
    """The folder of a run on this host, whether it is there or not."""
    return MEMORY / f"kineray-{os.getuid()}" / run_id


def delete_snapshots(run_id: str) -> None:
    """Delete those of a run on this host."""
    shutil.rmtree(snapshot_folder(run_id), ignore_errors=True)


def hold(folder: Path) -> int:
    """Make ``folder``, for this user alone, and hold it until the returned file descriptor is closed.

    Raises OSError.
    """
    for path in (folder.parent, folder):
        path.mkdir(mode=0o700, exist_ok=True)
        if path.stat().st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to another user")
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def delete_abandoned(home: Path) -> None:
    """Delete the folders in ``home`` that no process holds and none has written to for an hour."""
    for folder in home.iterdir():
        with contextlib.suppress(OSError), _opened(folder) as descriptor:  # or another process deletes it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                log.info("deleting the snapshots of a run that was killed: %s", folder)
                shutil.rmtree(folder)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
