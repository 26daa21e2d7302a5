"""The events of training as lines of text, for terminals and logs."""

import math
import time
from collections.abc import Callable

from kineray.durations import duration
from kineray.training.events import (
    CheckpointDelayedEvent,
    CheckpointEvent,
    ContinuedEvent,
    EndedEvent,
    Event,
    FeaturesEvent,
    InitialisedEvent,
    ReplacedEvent,
    StartedEvent,
    StepEvent,
    StragglerEvent,
    ValidationEvent,
    WaitingEvent,
)
from kineray.training.goodput import goodput_line


def line_of(event: Event, near: Callable[[str], str] = str) -> str | None:
    """One line about an event; None for one that says nothing new. ``near``: shortens locations."""
    text: str | None = None
    match event:
        case WaitingEvent():
            text = f"waiting for {event.cause} ..."
        case StartedEvent():
            causes = ", ".join(f"{cause} {seconds:.1f} s" for cause, seconds in event.seconds.items())
            text = f"started in {duration(sum(event.seconds.values()))}: {causes}"
        case ContinuedEvent() | FeaturesEvent():
            text = event.message
        case InitialisedEvent():
            text = f"{event.part or 'network'} initialised with {event.message}"
        case StepEvent():
            goodput = "" if event.goodput is None else f"goodput {event.goodput:.0%}  "
            text = (
                f"step {event.step}/{event.total_steps}  epoch {event.epoch:.2f}  "
                f"loss {event.loss:.3f}  lr {event.lr:.3g}  {event.clips_per_s:.1f} clips/s  "
                f"data wait {event.data_wait:.0%}  copy {event.copy:.0%}  "
                f"compute {event.compute:.0%}  {goodput}{duration(event.seconds_left)} left"
            )
        case ValidationEvent():
            shown = "  ".join(f"{key} {value:.4f}" for key, value in event.metrics.items())
            if f"val/{event.score_name}" not in event.metrics:
                shown += f"  score {event.score:.4f} ({event.score_name})"
            how = "" if event.precision == "float32" else f" in {event.precision}"
            how += "" if event.weights == "model" else f" with the {event.weights} weights"
            text = f"validation after epoch {event.epoch}{how}: {shown}"
        case CheckpointEvent():
            text = f"best checkpoint so far: {near(event.uri)}" if event.best else None
        case CheckpointDelayedEvent():
            text = (
                f"no checkpoint of step {event.step} yet: {event.problem}; "
                f"trying again in {duration(event.seconds)}"
            )
        case ReplacedEvent():
            text = "; ".join(f"replaced {failure.uri}: {failure.message}" for failure in event.failures)
        case StragglerEvent():
            text = (
                f"rank {event.rank} on {event.host} takes {event.ratio:.1f}x as long as the others for its "
                f"part of a step since step {event.since}: {event.cause}"
            )
        case EndedEvent():
            text = goodput_line(event.goodput)
    return text


class EventLines:
    """``line_of`` the events of a run, but for most steps: a line every ``every_s`` seconds, and the last."""

    def __init__(self, every_s: float) -> None:
        self._every_s, self._last = every_s, -math.inf

    def __call__(self, event: Event, near: Callable[[str], str] = str) -> str | None:
        """One line about an event, or None."""
        if isinstance(event, StepEvent):
            now = time.monotonic()
            if now - self._last < self._every_s and event.step != event.total_steps:
                return None
            self._last = now
        return line_of(event, near)
