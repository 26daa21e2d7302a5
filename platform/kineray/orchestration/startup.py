"""What a run waits for before its first step: shown while it waits, and summed up by cause."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from kineray.cluster import connect, import_ray
from kineray.orchestration.workers import WorkerRange
from kineray.tracking.client import open_client
from kineray.training import (
    CheckpointEvent,
    Event,
    GoodputMeter,
    SnapshotEvent,
    StartedEvent,
    StepEvent,
    WaitingEvent,
)

log = logging.getLogger(__name__)

FIRST_STEP = "the first step"


def connect_and_open(storage: str) -> bool:
    """Connect to Ray while the tracker of ``storage`` is opened; returns whether it joined a running cluster.

    Each takes seconds, of which Ray's are spent in other processes. Raises KinerayError.
    """
    import_ray()  # first: two threads that import the same packages may meet them half imported
    opening = in_thread(partial(open_client, storage))
    joined = connect()
    opening.result()
    return joined


def in_thread(function: Callable[[], Any]) -> "Future[Any]":
    """Call ``function`` in a thread that does not keep the process alive."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name="kineray-work", daemon=True).start()
    return future


class StartUp:
    """Passes the events of a run on, with those of its start before them.

    ``goodput``: counts from now on what the time of the run is spent on. ``kept``: how many snapshots and
    checkpoints there have been.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self.goodput = GoodputMeter()
        self.kept = 0
        self._seconds: dict[str, float] = {}
        self._cause, self._since = "", time.monotonic()
        self._is_over = False
        self._workers = 0

    def wait_for(self, cause: str) -> None:
        """From now on the run waits for ``cause``."""
        self._end_of_wait()
        self._cause = cause
        self._on_event(WaitingEvent(cause))

    def worker_started(self, workers: int) -> None:
        """A worker of a group of ``workers`` has its imports and the manifest behind it."""
        self.goodput.restarted()
        if self._workers not in (0, workers):
            count = WorkerRange(workers, workers)
            log.warning("training goes on with %s instead of %d", count, self._workers)
        self._workers = workers
        if not self._is_over and self._cause != FIRST_STEP:
            self.wait_for(FIRST_STEP)

    def counted(self, event: Event) -> Event:
        """``event`` with the goodput of the run until now, which counts it."""
        self.goodput(event)
        if isinstance(event, StepEvent):
            return replace(event, goodput=self.goodput.result().effective)
        return event

    def __call__(self, event: Event) -> None:
        """Pass ``event`` on; the first step ends the start."""
        if isinstance(event, StepEvent) and not self._is_over:
            self._is_over = True
            self._end_of_wait()
            self._on_event(StartedEvent(dict(self._seconds)))
        self.kept += isinstance(event, SnapshotEvent | CheckpointEvent)
        self._on_event(event)

    def _end_of_wait(self) -> None:
        now = time.monotonic()
        if self._cause:
            self._seconds[self._cause] = self._seconds.get(self._cause, 0.0) + now - self._since
        self._since = now
