"""One change of what a storage serves at a time: a start, a promotion or a rollback."""

import contextlib
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kineray import storage as store
from kineray.errors import ServingError

log = logging.getLogger(__name__)

FILE = "serve.lock"
_POLL_S = 0.1
_LONGEST_WAIT_S = 1800.0


@contextlib.contextmanager
def one_change(storage: str) -> Iterator[None]:
    """Hold the lock of a storage while the body changes what it serves; wait while another process holds it.

    The lock ends with its process. It holds between the processes that share the storage folder, and for a
    bucket between those of this host. Raises ServingError (``busy``) after half an hour.
    """
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError):  # the folder cannot be written, or its file system has no locks
            file = os.open(_lock_file(storage), os.O_RDWR | os.O_CREAT, 0o666)
            opened.callback(os.close, file)
            _wait_for(file, storage)
        yield


def _lock_file(storage: str) -> Path:
    if not store.is_remote(storage):
        return Path(storage, FILE)
    name = hashlib.sha256(storage.rstrip("/").encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"kineray-{name}.lock")


def _wait_for(file: int, storage: str) -> None:
    started, is_logged = time.monotonic(), False
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        waited = time.monotonic() - started
        if waited > 1 and not is_logged:
            is_logged = True
            log.info("waiting for another serve, promote or rollback on %s", storage)
        if waited > _LONGEST_WAIT_S:
            raise ServingError(
                f"another serve, promote or rollback has not ended in {_LONGEST_WAIT_S / 60:.0f} minutes",
                code="busy",
                key=storage,
                remedy="see what it waits for",
            )
        time.sleep(_POLL_S)
