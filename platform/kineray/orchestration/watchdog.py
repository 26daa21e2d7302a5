"""Names the workers that keep all others waiting."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from kineray.durations import duration
from kineray.orchestration.messages import WorkerAlive

_LEAST_S = 120.0
_STEPS = 5.0  # a worker that is late by that many steps is not merely slow


@dataclass
class _Seen:
    """The last sign of life of a worker, when it was first like that, and when it came."""

    message: WorkerAlive
    since: float
    heard: float


class Watchdog:
    """Gets signs of life of all workers and finds those that the others wait for in a step.

    They are still in their own part of it, or do not answer any more. It takes two minutes, or five times as
    long as a step, until one is reported, once for each place where it hangs.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, _Seen] = {}
        self._reported: set[int] = set()
        self._patience_s = _LEAST_S

    def restarted(self) -> None:
        """A new group of workers starts."""
        self._seen.clear()
        self._reported.clear()

    def step_done(self, seconds: float) -> None:
        """A step took this many ``seconds``."""
        self._patience_s = max(_LEAST_S, _STEPS * seconds)

    def __call__(self, message: WorkerAlive) -> None:
        """Take a sign of life."""
        now, seen = self._clock(), self._seen.get(message.rank)
        if seen is not None and seen.message == message:
            seen.heard = now
            return
        self._seen[message.rank] = _Seen(message, now, now)
        self._reported.discard(message.rank)

    def problems(self) -> list[str]:
        """A line about each worker that is newly found."""
        now = self._clock()
        silent = {rank for rank, seen in self._seen.items() if now - seen.heard > self._patience_s}
        waiting = [
            seen.message.step
            for rank, seen in self._seen.items()
            if seen.message.waits and rank not in silent and now - seen.since > self._patience_s
        ]
        if not waiting:
            return []
        busy = {rank for rank, seen in self._seen.items() if not seen.message.waits}
        new = sorted((silent | busy) - self._reported)
        self._reported.update(new)
        return [
            f"{self._about(rank, rank in silent)}; the others wait for it in step {max(waiting)}"
            for rank in new
        ]

    def _about(self, rank: int, is_silent: bool) -> str:
        now, seen = self._clock(), self._seen[rank]
        place = f"rank {rank} on {seen.message.host}"
        if is_silent:
            return (
                f"{place} has not answered for {duration(now - seen.heard)}, since step {seen.message.step}"
            )
        return f"{place} has been in its part of step {seen.message.step} for {duration(now - seen.since)}"
