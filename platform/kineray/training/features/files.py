"""The files of cached features: rows of one shape, in shards that any program can map into memory.

::

    <cache>/features/<key>/
        index.json    what the features are of; number, shape and type of the rows
        00000.npy     the first rows
        00000.json    written after them: their sha256, where they were computed, rows with another origin
        locks         a byte for each shard, locked while it is computed
        proved-*      on which kinds of machine a sample was compared

A file is written under another name, synchronised and renamed, so what has its name is whole. Nothing in
them can execute code.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from kineray.data.batches.spec import Failure
from kineray.errors import StorageError
from kineray.storage.cache import from_environment
from kineray.storage.durable import make_folder, sync_folder, write_file
from kineray.storage.os_errors import os_errors_about

FORMAT = 1
SHARD_BYTES = 64 * 2**20

_INDEX = "index.json"
_MARK = "proved-"
_OPEN_FILES = 64


@dataclass(frozen=True)
class Origin:
    """Where a row comes from that is not simply a clip of its sample.

    ``sample``: id of the sample that is shown in its place, because of ``failures``; empty if there is none,
    and the row has no content.
    """

    sample: str
    failures: tuple[Failure, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which ``from_dict`` reads."""
        return {"sample": self.sample, "failures": [asdict(failure) for failure in self.failures]}

    @property
    def causes(self) -> list[tuple[str, str]]:
        """The samples that failed and the codes of their errors, which do not depend on where files are."""
        return [(failure.id, failure.code) for failure in self.failures]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """What ``to_dict`` gave."""
        return cls(value["sample"], tuple(Failure(**failure) for failure in value["failures"]))


@dataclass(frozen=True)
class FeatureFiles:
    """A folder of ``rows`` rows of ``shape`` and ``dtype`` (float32 or float16).

    ``about``: what they depend on, in plain JSON values (``kineray.training.features.key``).
    """

    folder: Path
    about: Mapping[str, Any]
    rows: int
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The files in ``folder``. Raises StorageError if there are none of this format, or damaged ones."""
        with os_errors_about(folder / _INDEX):
            content = (folder / _INDEX).read_bytes()
        try:
            index = json.loads(content)
            if index["format"] != FORMAT:
                raise ValueError
            return cls(folder, index["about"], index["rows"], tuple(index["shape"]), index["dtype"])
        except (ValueError, KeyError, TypeError):
            raise _damaged(folder / _INDEX, "not an index of this version") from None

    def create(self) -> Self:
        """Make the folder and its index; keeps one that exists. Raises StorageError."""
        if not (self.folder / _INDEX).exists():
            with os_errors_about(self.folder):
                make_folder(self.folder)
            index = {
                "format": FORMAT,
                "about": dict(self.about),
                "rows": self.rows,
                "shape": list(self.shape),
                "dtype": self.dtype,
            }
            self._write(_INDEX, json.dumps(index, indent=2).encode())
        return self

    @property
    def key(self) -> str:
        """The name of the folder."""
        return self.folder.name

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def rows_per_shard(self) -> int:
        """Number of rows in every shard but the last, which may have fewer."""
        return max(SHARD_BYTES // self.row_bytes, 1)

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(-(-self.rows // self.rows_per_shard))

    def rows_of(self, shard: int) -> range:
        """The rows in a shard."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.rows))

    def has(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return self._note(shard).exists()

    def missing(self) -> list[int]:
        """The shards that are not complete."""
        return [shard for shard in self.shards if not self.has(shard)]

    @property
    def missing_rows(self) -> int:
        """Number of rows in the shards that are not complete."""
        return sum(len(self.rows_of(shard)) for shard in self.missing())

    def write(self, shard: int, rows: np.ndarray, origins: Mapping[int, Origin], computed_on: str) -> None:
        """Write a shard: ``rows`` [N, *shape] of ``dtype``. Raises StorageError.

        ``origins``: of rows, by their number, that need one. ``computed_on``: hardware and versions.
        """
        wanted = (len(self.rows_of(shard)), *self.shape)
        if rows.shape != wanted or rows.dtype != self.dtype:
            raise ValueError(f"shard {shard} must be {self.dtype} {wanted}, not {rows.dtype} {rows.shape}")
        path = self._shard(shard)
        temporary = path.with_name(f".{path.name}.tmp")  # one process writes a shard at a time
        try:
            with os_errors_about(path), temporary.open("wb") as file:
                np.lib.format.write_array(file, rows, version=(1, 0), allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        note = {
            "sha256": _sha256(rows),
            "computed_on": computed_on,
            "origins": {str(row): origin.to_dict() for row, origin in origins.items()},
        }
        self._write(self._note(shard).name, json.dumps(note).encode())

    @contextmanager
    def locked(self, shard: int, *, wait: bool) -> Iterator[bool]:
        """Hold the lock of a shard, and say whether it could be had; with ``wait`` that is always so.

        The kernel releases it when the process dies.
        """
        with os_errors_about(self.folder):
            file = (self.folder / "locks").open("ab")
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, shard)
            except (BlockingIOError, PermissionError):  # which of them depends on the system
                is_mine = False
            else:
                is_mine = True
            yield is_mine

    def note(self, shard: int) -> tuple[str, str, dict[int, Origin]]:
        """sha256 of a shard's rows, what they were computed on, and origins by row. Raises StorageError."""
        path = self._note(shard)
        with os_errors_about(path):
            content = path.read_bytes()
        try:
            note = json.loads(content)
            origins = {int(row): Origin.from_dict(value) for row, value in note["origins"].items()}
            return note["sha256"], note["computed_on"], origins
        except (ValueError, KeyError, TypeError):
            raise _damaged(path, "not a note of a shard") from None

    def load(self, shard: int) -> np.ndarray:
        """A shard mapped into memory, read-only: [N, *shape]. Raises StorageError."""
        path = self._shard(shard)
        with os_errors_about(path):
            try:
                rows: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            except ValueError as error:
                raise _damaged(path, str(error)) from None
        if rows.shape != (len(self.rows_of(shard)), *self.shape) or rows.dtype != self.dtype:
            raise _damaged(path, f"it holds {rows.dtype} {rows.shape}")
        return rows

    def differs(self, shard: int) -> bool:
        """Whether the rows of a shard are not those that were written, by their sha256."""
        try:
            return _sha256(self.load(shard)) != self.note(shard)[0]
        except StorageError as error:
            if error.code != "damaged":
                raise
            return True

    def delete(self, shard: int) -> None:
        """Remove a shard, which is then computed again. Raises StorageError."""
        with os_errors_about(self.folder):
            self._note(shard).unlink(missing_ok=True)
            self._shard(shard).unlink(missing_ok=True)
            for mark in self.folder.glob(f"{_MARK}*"):
                mark.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Size of all rows in bytes."""
        return self.rows * self.row_bytes

    def is_proved(self, machine: str) -> bool:
        """Whether a sample was found to be what this kind of machine computes."""
        return (self.folder / _mark(machine)).exists()

    def set_proved(self, machine: str) -> None:
        """Remember that; it is forgotten when a shard is removed. Raises StorageError."""
        with os_errors_about(self.folder):
            (self.folder / _mark(machine)).touch()

    def _shard(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.npy"

    def _note(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.json"

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
        with os_errors_about(path):
            write_file(temporary, content)
            temporary.rename(path)
            sync_folder(self.folder)


class FeatureReader:
    """Reads rows of complete files, a few open files at a time. To be used by one thread.

    Rows are read, not mapped: then memory holds no more than the rows that are asked for, and a row of a disk
    that is not in memory yet is fetched at once and not page by page.
    """

    def __init__(self, files: FeatureFiles) -> None:
        self.files = files
        self._open: OrderedDict[int, tuple[int, int]] = OrderedDict()  # shard: descriptor, where rows begin

    @cached_property
    def origins(self) -> dict[int, Origin]:
        """Of the rows that have one."""
        return {
            row: origin for shard in self.files.shards for row, origin in self.files.note(shard)[2].items()
        }

    def read(self, rows: Sequence[int], out: np.ndarray) -> None:
        """Read ``rows`` into ``out``, float32 [N, *shape]. Raises StorageError."""
        files = self.files
        is_direct = files.dtype == out.dtype.name
        row_now = np.empty(files.shape, files.dtype)
        for place, row in enumerate(rows):
            shard, number = divmod(row, files.rows_per_shard)
            descriptor, start = self._descriptor(shard)
            target = out[place] if is_direct else row_now
            with os_errors_about(files._shard(shard)):
                _read_at(descriptor, start + number * files.row_bytes, target, files._shard(shard))
            if not is_direct:
                out[place] = row_now

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _descriptor(self, shard: int) -> tuple[int, int]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1][0])
        rows = self.files.load(shard)  # checks the header
        assert isinstance(rows, np.memmap)
        path = self.files._shard(shard)
        with os_errors_about(path):
            self._open[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC), rows.offset
        return self._open[shard]


def features_folder() -> Path:
    """Where cached features are: ``features`` in the folder that ``KINERAY_CACHE`` names."""
    return from_environment().folder / "features"


def all_features() -> list[FeatureFiles]:
    """All that are in the cache and can be read, by key."""
    folder = features_folder()
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if (path / _INDEX).exists():
            found.append(FeatureFiles.open(path))
    return found


def delete_files(files: FeatureFiles) -> None:
    """Remove the folder; its index goes first, so that what is left is not taken for features.

    Raises StorageError.
    """
    with os_errors_about(files.folder):
        (files.folder / _INDEX).unlink(missing_ok=True)
        shutil.rmtree(files.folder)


def _mark(machine: str) -> str:
    return _MARK + hashlib.sha256(machine.encode()).hexdigest()[:16]


def _read_at(descriptor: int, position: int, target: np.ndarray, path: Path) -> None:
    view = target.reshape(-1).data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], position)
        if not count:
            raise _damaged(path, "it is too short")
        view, position = view[count:], position + count


def _sha256(rows: np.ndarray) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()


def _damaged(path: Path, problem: str) -> StorageError:
    return StorageError(
        f"damaged: {problem}",
        code="damaged",
        key=path,
        remedy=f"compute it again: kineray cache verify {path.parent.name} removes it",
    )
