"""Operating-system errors as StorageError."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kineray.errors import StorageError

_CODES = {
    errno.ENOENT: "not_found",
    errno.EACCES: "access_denied",
    errno.EPERM: "access_denied",
    errno.EROFS: "access_denied",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
}
_REMEDIES = {"disk_full": "free some space there"}


@contextmanager
def os_errors_about(key: str | Path, *, remedy: str = "") -> Iterator[None]:
    """Raise an OSError as StorageError about the file, folder or URI ``key``.

    Its code is ``not_found``, ``access_denied``, ``disk_full`` or ``io_error``.
    """
    try:
        yield
    except OSError as error:
        code = _CODES.get(error.errno or 0, "io_error")
        remedy = remedy or _REMEDIES.get(code, "")
        raise StorageError(error.strerror or str(error), code=code, key=key, remedy=remedy) from None
