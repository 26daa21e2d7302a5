"""Reused memory for batches."""

import math
import weakref

import numpy as np
import torch


class BatchMemory:
    """Lends memory to batches, and takes it back when nothing refers to a batch any more.

    The first write to each page of new memory makes the kernel allocate it, which takes longer than copying
    a clip of 5 MB. (Pinned memory is reused by torch itself.)
    """

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._free: list[np.ndarray] = []

    @property
    def free(self) -> int:
        """Bytes that no batch uses at the moment."""
        return sum(buffer.size for buffer in self._free)

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """An uninitialised uint8 tensor, whose memory is returned once it and all its views are gone."""
        if self._pin_memory:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        size = math.prod(shape)
        buffer = self._buffer(size)
        # Only the storage of the tensor refers to this view of the buffer.
        lent = buffer[:size].reshape(shape)
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)

    def _buffer(self, size: int) -> np.ndarray:
        for index, buffer in enumerate(self._free):
            if size <= buffer.size <= 2 * size:
                return self._free.pop(index)
        self._free.clear()  # buffers of sizes that are no longer used
        return np.empty(size, np.uint8)
