"""When something is due that is done again and again."""

import time
from collections.abc import Callable

from kineray.durations import seconds_of

_SHARE = 0.01


class Cadence:
    """Work that is due every 500 steps (``500``), or ten minutes after it was last done (``10m``).

    None: as often as it takes at most 1 % of the time.
    """

    def __init__(
        self, every: int | str | None, start: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``start``: number of steps that the run has made."""
        self._every, self._clock = every, clock
        self._step, self._time, self._seconds = start, clock(), 0.0

    def due(self, step: int) -> bool:
        """Whether it is due after ``step`` steps, if that is now. What is not done stays due."""
        if isinstance(self._every, int):
            return step // self._every > self._step // self._every
        pause = self._seconds / _SHARE if self._every is None else seconds_of(self._every)
        return self._clock() - self._time >= pause

    def done(self, step: int, seconds: float = 0.0) -> None:
        """It was done just now, after ``step`` steps, and took ``seconds``."""
        self._step, self._time, self._seconds = step, self._clock(), seconds
