"""Snapshots of the training state in the memory of a host, which outlive the process that takes them."""

import io
import logging
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kineray.config import from_yaml, to_yaml
from kineray.training.snapshot_files import delete_abandoned, hold, snapshot_folder
from kineray.training.state import TrainingState

log = logging.getLogger(__name__)

_ALIGNMENT = 64
_HEADER = 64  # bytes: step (0 while it is written), where the description begins and ends


class Snapshots:
    """The last two snapshots of one run on this host, in files of ``folder``, which is one in memory.

    A snapshot that was being written when its process was killed does not count, and the one before it is
    still there. One process of each host writes.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError if the folder cannot be made."""
        self._held = hold(folder)
        self._folder = folder
        self._slots = [_Slot(folder / "0"), _Slot(folder / "1")]

    @classmethod
    def of_run(cls, run_id: str) -> "Snapshots | None":
        """Those of a run; None, which is logged, on a host that has no memory for them.

        Snapshots that killed runs have left on this host are deleted.
        """
        folder = snapshot_folder(run_id)
        try:
            snapshots = cls(folder)
            delete_abandoned(folder.parent)
        except OSError as error:
            log.warning("no snapshots on this host, only checkpoints: %s", error)
            return None
        return snapshots

    def save(self, state: TrainingState) -> None:
        """Keep ``state`` in the place of the older one. Raises OSError if there is no room for it."""
        min(self._slots, key=lambda slot: slot.step).write(state)
        os.utime(self._folder)

    @property
    def newest(self) -> int:
        """The step of the newest snapshot; 0 if there is none."""
        return self._newest.step

    def read(self) -> Tensor:
        """The newest snapshot as it is in memory, [N] uint8, for ``decode``."""
        return self._newest.content

    def delete(self) -> None:
        """Delete them, and release what they took."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._slots = [_Slot(self._folder / "0"), _Slot(self._folder / "1")]

    def __del__(self) -> None:
        if hasattr(self, "_held"):
            os.close(self._held)

    @property
    def _newest(self) -> "_Slot":
        return max(self._slots, key=lambda slot: slot.step)


def decode(content_n: Tensor) -> TrainingState:
    """The state in the bytes of a snapshot, [N] uint8."""
    _, begin, end = content_n[:24].view(torch.int64).tolist()
    text, weights, optimizer, pieces, state = _Reader(content_n, begin, end).load()
    return TrainingState(weights, optimizer, pieces, state, from_yaml(text, "a snapshot"))


class _Slot:
    """One snapshot in one file, which is mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size if path.exists() else 0
        self._memory = _map(path, size) if size >= _HEADER else torch.zeros(_HEADER, dtype=torch.uint8)

    @property
    def step(self) -> int:
        return int(self._header[0])

    @property
    def content(self) -> Tensor:
        return self._memory[: int(self._header[2])]

    def write(self, state: TrainingState) -> None:
        writer = _Writer(state)
        if len(self._memory) < writer.end:
            self._memory = torch.zeros(_HEADER, dtype=torch.uint8)  # frees what is too small
            self._memory = _allocate(self._path, writer.end + writer.end // 20)
        self._header[0] = 0
        for offset, tensor in writer.tensors:
            _part(self._memory, offset, tensor.dtype, tensor.shape).copy_(tensor)
        text = torch.frombuffer(bytearray(writer.description), dtype=torch.uint8)
        self._memory[writer.begin : writer.end] = text
        self._header[1], self._header[2] = writer.begin, writer.end
        self._header[0] = state.state["step"]

    @property
    def _header(self) -> Tensor:
        return self._memory[:24].view(torch.int64)


class _Writer(pickle.Pickler):
    """Describes a state without its tensors, whose places it chooses.

    ``tensors``: (offset, tensor); ``description`` goes from ``begin`` to ``end``.
    """

    def __init__(self, state: TrainingState) -> None:
        file = io.BytesIO()
        super().__init__(file)
        self.tensors: list[tuple[int, Tensor]] = []
        self.begin = _HEADER
        parts = (to_yaml(state.experiment), state.weights, state.optimizer, state.pieces, state.state)
        self.dump(parts)
        self.description = file.getvalue()
        self.end = self.begin + len(self.description)

    def persistent_id(self, value: Any) -> tuple[int, str, tuple[int, ...]] | None:
        if not isinstance(value, Tensor):
            return None
        offset = self.begin
        self.tensors.append((offset, value.detach()))
        size = value.numel() * value.element_size()
        self.begin = offset + -(-size // _ALIGNMENT) * _ALIGNMENT
        return offset, str(value.dtype).removeprefix("torch."), tuple(value.shape)


class _Reader(pickle.Unpickler):
    """Reads what ``_Writer`` has described; it makes nothing but plain values and tensors."""

    def __init__(self, content_n: Tensor, begin: int, end: int) -> None:
        super().__init__(io.BytesIO(content_n[begin:end].numpy().tobytes()))
        self._content = content_n

    def persistent_load(self, where: tuple[int, str, tuple[int, ...]]) -> Tensor:
        offset, dtype, shape = where
        return _part(self._content, offset, getattr(torch, dtype), shape).clone()

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a snapshot contains no {module}.{name}")


def _part(content_n: Tensor, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel() * dtype.itemsize
    return content_n[offset : offset + size].view(dtype).view(shape)


def _allocate(path: Path, size: int) -> Tensor:
    """A file of ``size`` bytes of memory, all of which there is. Raises OSError."""
    path.unlink(missing_ok=True)  # first: there may be no room for both
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)  # a page that is missing later would kill the process
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)
    return _map(path, size)


def _map(path: Path, size: int) -> Tensor:
    return torch.from_file(str(path), shared=True, size=size, dtype=torch.uint8)
