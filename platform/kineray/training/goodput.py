"""What a run's time is spent on: steps that count, and everything else by cause."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from kineray.training.events import CheckpointEvent, Goodput, SnapshotEvent, StepEvent, ValidationEvent

START, RESTART, WAIT = "start-up", "restart", "data wait"
VALIDATION, CHECKPOINT, SNAPSHOT, LOST = "validation", "checkpoints", "snapshots", "lost steps"
OTHER = "other"

_STEPS = "steps"
_SHOWN = 0.005  # smaller shares would be shown as 0%


class _Spent(NamedTuple):
    step: int
    cause: str
    seconds: float


class GoodputMeter:
    """Adds up what a run's time is spent on, from its events in the order in which they arrive.

    The time counts from when this is made.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began = self._last_event = clock()
        self._gap: str | None = START  # what the time until the next step is spent on
        self._steps = self._lost = 0
        self._seconds: dict[str, float] = {}
        self._losable: list[_Spent] = []  # since the checkpoint before the last
        self._saved = 0

    def continues(self, steps: int) -> None:
        """The run is known to have made ``steps`` steps before its driver was lost."""
        self._steps = steps

    def restarted(self) -> None:
        """Workers start: the time since the last event is lost, unless they are the first."""
        self._gap = self._gap or RESTART

    def __call__(self, event: Any) -> None:
        """Count an event. Those that say nothing about time are left out."""
        match event:
            case StepEvent():
                self._count_step(event)
            case ValidationEvent():
                self._add(event.step, VALIDATION, event.seconds)
            case CheckpointEvent():
                self._add(event.step, CHECKPOINT, event.seconds)
                self._losable = [spent for spent in self._losable if spent.step > self._saved]
                self._saved = event.step
            case SnapshotEvent():
                self._add(event.step, SNAPSHOT, event.seconds)
            case _:
                return
        self._last_event = self._clock()

    def result(self) -> Goodput:
        """What the time was spent on until now."""
        spent = dict(self._seconds)
        if self._gap is not None:
            spent[self._gap] = spent.get(self._gap, 0.0) + self._clock() - self._last_event
        measured = sum(spent.values())
        total = max(self._clock() - self._began, measured, 1e-9)
        shares = {cause: seconds / total for cause, seconds in spent.items()}
        effective = shares.pop(_STEPS, 0.0)
        return Goodput(total, effective, shares | {OTHER: 1 - measured / total}, self._lost)

    def _count_step(self, event: StepEvent) -> None:
        if event.step <= self._steps:
            self._lose(event.step)
        self._steps = event.step
        if self._gap is not None:
            gap = self._clock() - self._last_event - event.seconds
            self._seconds[self._gap] = self._seconds.get(self._gap, 0.0) + max(gap, 0.0)
            self._gap = None
        waited = event.data_wait * event.seconds
        self._add(event.step, WAIT, waited)
        self._add(event.step, _STEPS, event.seconds - waited)

    def _lose(self, first: int) -> None:
        """The steps from ``first`` on are made again: what they took the first time is lost."""
        self._lost += self._steps - first + 1
        for spent in self._losable:
            if spent.step >= first:
                self._seconds[spent.cause] -= spent.seconds
                self._seconds[LOST] = self._seconds.get(LOST, 0.0) + spent.seconds
        self._losable = [spent for spent in self._losable if spent.step < first]

    def _add(self, step: int, cause: str, seconds: float) -> None:
        self._seconds[cause] = self._seconds.get(cause, 0.0) + seconds
        self._losable.append(_Spent(step, cause, seconds))


def goodput_line(goodput: Goodput) -> str:
    """``goodput 93%: start-up 4%, data wait 2%, validation 1%``: the largest cause first."""
    causes = sorted(goodput.badput.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{cause} {share:.0%}" for cause, share in causes if share >= _SHOWN)
    lost = f" ({goodput.lost_steps} made again)" if goodput.lost_steps else ""
    return f"goodput {goodput.effective:.0%}{': ' * bool(shown)}{shown}{lost}"
