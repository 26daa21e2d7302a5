"""How fast training is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Speed:
    """Measures the speed of training, smoothed over about ten steps.

    The first step also allocates memory and chooses kernels: it counts only until there is another one.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._smooth_s = 0.0
        self._smooth_clips = 0.0
        self.step_s = 0.0

    @contextmanager
    def of(self, clips: int) -> Iterator[None]:
        """Inside, a step of this many clips is made."""
        started = time.perf_counter()
        yield
        self.step_s = time.perf_counter() - started
        self._steps += 1
        weight = max(0.1, 1 / max(self._steps - 1, 1))
        self._smooth_s += (self.step_s - self._smooth_s) * weight
        self._smooth_clips += (clips - self._smooth_clips) * weight

    @property
    def clips_per_s(self) -> float:
        return self._smooth_clips / self._smooth_s

    def seconds_for(self, steps: int) -> float:
        return steps * self._smooth_s
