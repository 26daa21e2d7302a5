"""What the tests of importers share: files that stand for videos, and refusals."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kineray.errors import ManifestError


def touch(root: Path, *names: str) -> Path:
    """Make empty files below ``root``, which is returned. Importers look at names only."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@contextmanager
def refused(code: str, key: object) -> Iterator[pytest.ExceptionInfo[ManifestError]]:
    """Expect a ManifestError with ``code`` about ``key``, whose message is one line."""
    with pytest.raises(ManifestError) as error:
        yield error
    assert (error.value.code, error.value.key) == (code, str(key))
    assert "\n" not in str(error.value)
