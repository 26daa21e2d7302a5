"""The progress of long work, on stderr: one live line on a terminal, else a line now and then."""

import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from kineray.cli.output import near
from kineray.durations import duration

if TYPE_CHECKING:
    from kineray.training import Event


class _Lines:
    """Prints lines to stderr; a ``live`` one is replaced by the next line."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self._is_open = False

    def print(self, text: str, *, live: bool = False) -> None:
        click.echo("\r\033[K" + text if self.live else text, nl=not (self.live and live), err=True)
        self._is_open = self.live and live

    def end(self) -> None:
        """End a live line."""
        if self._is_open:
            click.echo(err=True)
        self._is_open = False


class Progress:
    """How far long work is; called with (done, all) or (done, all, number of ``also``).

    ``what``: the things that are counted, such as "videos". ``also``: what the third number counts, such as
    "failed". ``doing``: what is done while nothing is counted, such as "reading annotations"; it is shown
    with the time that it takes.
    """

    def __init__(self, what: str = "", also: str = "", *, doing: str = "") -> None:
        self._what, self._also, self._doing = what, also, doing
        self._lines = _Lines()
        self._every_s = 0.2 if self._lines.live else 10.0
        self._start = self._last = time.monotonic()
        self._waits_no_more = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_counting, self._first = False, 0

    def __enter__(self) -> "Progress":
        if self._doing:
            self._thread = threading.Thread(target=self._tick, name="kineray-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_waiting()

    def stop_waiting(self) -> None:
        """Show ``doing`` no more, and end the line, as before a question to the user."""
        self._end_ticks()
        self._lines.end()

    def __call__(self, done: int, total: int, count: int | None = None) -> None:
        if self._doing and not self._is_counting:
            self._end_ticks()
            # The first one took the time of what came before it.
            self._is_counting, self._start, self._first = True, time.monotonic(), done
        now = time.monotonic()
        if now - self._last < self._every_s and not (self._lines.live and done == total):
            return
        self._last = now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        speed = f"  {rate:.1f}/s  {duration((total - done) / rate)} left" if rate else ""
        more = "" if count is None else f"  {count} {self._also}"
        self._lines.print(f"{done} of {total} {self._what}{speed}{more}", live=True)

    def _end_ticks(self) -> None:
        self._waits_no_more.set()
        if self._thread is not None:
            self._thread.join()

    def _tick(self) -> None:
        every_s = max(self._every_s, 1.0)
        while not self._waits_no_more.wait(every_s):
            self._lines.print(f"{self._doing} ... {duration(time.monotonic() - self._start)}", live=True)


class TrainingProgress:
    """Prints the events of training."""

    def __init__(self, every_s: float = 5.0) -> None:
        """``every_s``: seconds between the lines of steps where there is no terminal."""
        from kineray.training import EventLines

        self._lines = _Lines()
        self._line_of = EventLines(0.2 if self._lines.live else every_s)

    def __call__(self, event: "Event", prefix: str = "") -> None:
        from kineray.training import StepEvent, WaitingEvent

        is_step, is_wait = isinstance(event, StepEvent), isinstance(event, WaitingEvent)
        text = self._line_of(event, near)
        if text is not None and (self._lines.live or not is_wait):
            self._lines.print(prefix + text, live=is_step or is_wait)

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.end()
