"""Memory for batches, used again."""

import math
import weakref

import numpy as np
import torch


class BatchMemory:
    """Gives batches their memory, and takes it back when nothing refers to a batch any more.

    The first write to a page of new memory makes the kernel find one: for a clip of 5 MB that takes longer
    than copying it. (Pinned memory is kept by torch itself.)
    """

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._free: list[np.ndarray] = []

    @property
    def free(self) -> int:
        """Bytes that no batch uses now."""
        return sum(buffer.size for buffer in self._free)

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        """A uint8 tensor of any content, whose memory comes back once it and all its views are gone."""
        if self._pin_memory:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        buffer = self._buffer(math.prod(shape))
        # The tensor's storage refers to this view of the buffer, and is the only one to do so.
        lent = buffer.reshape(shape)
        weakref.finalize(lent, self._free.append, buffer).atexit = False
        return torch.from_numpy(lent)

    def _buffer(self, size: int) -> np.ndarray:
        for index, buffer in enumerate(self._free):
            if buffer.size == size:
                return self._free.pop(index)
        self._free.clear()  # of sizes that are out of use
        return np.empty(size, np.uint8)
