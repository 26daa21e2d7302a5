"""How much the HTTP replica takes on at the same time, and for how long.

All limits are its own: Serve's proxy, which stands before it, would answer in its own words, and its queue
would hold up health checks behind videos.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from kineray.serving.errors import RequestError


@dataclass(frozen=True)
class Limits:
    """What a replica takes on.

    ``max_bytes``: size of the largest body. ``running``: videos that are decoded and classified at the same
    time; ``waiting``: complete videos that wait for that, further ones are refused. ``held``: bodies of the
    largest size that fit into the memory for videos.

    A body may take ``receive_s`` seconds, and after ``grace_s`` seconds it must have come at ``bytes_per_s``
    on average. An answer may take ``answer_s`` seconds from there.
    """

    max_bytes: int
    running: int = 32
    waiting: int = 64
    held: int = 32
    receive_s: float = 60.0
    grace_s: float = 10.0
    bytes_per_s: int = 4096
    answer_s: float = 60.0

    @property
    def request_s(self) -> float:
        """No request takes longer."""
        return self.receive_s + self.answer_s

    def receive_until(self, received: int) -> float:
        """Seconds after its start by which a body must be complete, or more of it must have come."""
        return min(self.receive_s, self.grace_s + received / self.bytes_per_s)


class Memory:
    """The bytes of all videos that a process holds."""

    def __init__(self, limit: int) -> None:
        self._free = limit

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """The bytes of one request; they are free again when the body ends."""
        share = Share(self)
        try:
            yield share
        finally:
            share.resize(0)

    def take(self, count: int) -> None:
        """Take ``count`` bytes, or give them back if it is negative. Raises RequestError."""
        if count > self._free:
            raise overloaded()
        self._free -= count


class Share:
    """What one request holds of a Memory."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._count = memory, 0

    def resize(self, count: int) -> None:
        """Hold ``count`` bytes from now on. Raises RequestError if there is no room for them."""
        self._memory.take(count - self._count)
        self._count = count


class Slots:
    """``running`` requests run at the same time and ``waiting`` wait for it, in order of arrival."""

    def __init__(self, running: int, waiting: int) -> None:
        self._semaphore = asyncio.Semaphore(running)
        self._free = running + waiting

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it for the body. Raises RequestError if too many wait already."""
        if not self._free:
            raise overloaded()
        self._free -= 1
        try:
            async with self._semaphore:
                yield
        finally:
            self._free += 1


def overloaded() -> RequestError:
    """The answer to a request that there is no room for."""
    return RequestError(503, "overloaded", "too many requests; try again", retry_after_s=1)
