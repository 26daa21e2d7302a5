"""What ``kineray.train`` and ``kineray.sweep`` log where the caller does not handle their events."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from kineray.training import Event, EventLines, WaitingEvent

log = logging.getLogger("kineray.progress")

_EVERY_S = 10.0  # between the lines of steps


class LoggedProgress:
    """Logs events at the level INFO, in plain lines: of the steps one every ten seconds, and the last."""

    def __init__(self) -> None:
        self._line_of = EventLines(_EVERY_S)

    def __call__(self, event: Event, trial: str = "") -> None:
        """``trial``: the name of the sweep's trial that the event is from."""
        text = self._line_of(event)
        if text is not None and not isinstance(event, WaitingEvent):
            log.info("%s%s", f"[{trial}] " * bool(trial), text)


@contextmanager
def visible_progress() -> Iterator[None]:
    """Print what is logged here to stderr if the program, such as a notebook, has not configured logging."""
    if log.hasHandlers():
        yield
        return
    handler, before = logging.StreamHandler(sys.stderr), log.level
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
