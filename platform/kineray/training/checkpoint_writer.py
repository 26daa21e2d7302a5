"""Checkpoints that are written while training goes on."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType

from kineray.data import Preprocessing
from kineray.errors import StorageError
from kineray.training.checkpoint import CheckpointStore
from kineray.training.checkpoint_files import MODEL_WEIGHTS
from kineray.training.events import CheckpointDelayedEvent, CheckpointEvent
from kineray.training.state import TrainingState

log = logging.getLogger(__name__)

_PAUSES_S = (5.0, 120.0)  # the first one between two attempts, and the longest
_POLL_S = 0.5


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time; training waits only until it has a copy.

    ``report`` gets an event for each complete checkpoint, in the thread that trains. At the end of a ``with``
    block, also one that ends by an error, all are complete. A storage that has no room or does not answer is
    tried again at growing intervals, for ``patience_s``.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        report: Callable[[CheckpointEvent | CheckpointDelayedEvent], None],
        patience_s: float = 0.0,
    ) -> None:
        self._checkpoints, self._patience_s = checkpoints, patience_s
        self._report = report
        self._delays: queue.SimpleQueue[CheckpointDelayedEvent] = queue.SimpleQueue()
        self._hurry = threading.Event()  # the run ends by an error: the next attempt is the last one
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kineray-checkpoint")
        self._writing: Future[CheckpointEvent] | None = None

    def save(
        self,
        state: TrainingState,
        preprocessing: Preprocessing,
        *,
        score: float | None = None,
        weights: str = MODEL_WEIGHTS,
    ) -> None:
        """Copy ``state`` and begin to write it, after the checkpoint before it; see ``CheckpointStore.save``.

        Raises what the writing of that one raised.
        """
        began = time.perf_counter()
        self.wait()
        copy = state.copied()
        stall_s = time.perf_counter() - began

        def write() -> CheckpointEvent:
            uri, best = self._checkpoints.save(copy, preprocessing, score=score, weights=weights)
            return CheckpointEvent(copy.state["step"], uri, best, score, stall_s)

        self._writing = self._thread.submit(self._patiently, write, copy.state["step"])

    def _patiently(self, write: Callable[[], CheckpointEvent], step: int) -> CheckpointEvent:
        pause, deadline = _PAUSES_S[0], time.monotonic() + self._patience_s
        while True:
            try:
                return write()
            except StorageError as error:
                may_pass = error.is_transient or error.code == "disk_full"
                if not may_pass or self._hurry.is_set() or time.monotonic() + pause > deadline:
                    raise
                self._delays.put(CheckpointDelayedEvent(step, str(error), pause))
                self._hurry.wait(pause)
                pause = min(2 * pause, _PAUSES_S[1])

    @property
    def is_idle(self) -> bool:
        """Whether no checkpoint is being written."""
        return self._writing is None

    def collect(self) -> None:
        """Report the checkpoint if it is complete now, or its delay. Raises what its writing raised."""
        while not self._delays.empty():
            self._report(self._delays.get())
        if self._writing is not None and self._writing.done():
            written, self._writing = self._writing, None
            self._report(written.result())

    def wait(self) -> None:
        """Report the checkpoint when it is complete. Raises what its writing raised."""
        while self._writing is not None:
            wait([self._writing], timeout=_POLL_S)
            self.collect()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if kind is not None:
            self._hurry.set()
        try:
            self.wait()
        except Exception as problem:
            if kind is None:
                raise
            log.error("a checkpoint is missing: %s", problem)  # beside the error that ends the run
        finally:
            self._thread.shutdown()
