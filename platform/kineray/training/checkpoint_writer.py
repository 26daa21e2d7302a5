"""Checkpoints that are written while training goes on."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from kineray.data import Preprocessing
from kineray.training.checkpoint import CheckpointStore
from kineray.training.checkpoint_files import MODEL_WEIGHTS
from kineray.training.events import CheckpointEvent
from kineray.training.state import TrainingState

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time; training waits only until it has a copy.

    ``report`` gets an event for each complete checkpoint, in the thread that trains. At the end of a ``with``
    block, also one that ends by an error, all are complete.
    """

    def __init__(self, checkpoints: CheckpointStore, report: Callable[[CheckpointEvent], None]) -> None:
        self._checkpoints = checkpoints
        self._report = report
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

        self._writing = self._thread.submit(write)

    @property
    def is_idle(self) -> bool:
        """Whether no checkpoint is being written."""
        return self._writing is None

    def collect(self) -> None:
        """Report the checkpoint if it is complete now. Raises what its writing raised."""
        if self._writing is not None and self._writing.done():
            written, self._writing = self._writing, None
            self._report(written.result())

    def wait(self) -> None:
        """Report the checkpoint when it is complete. Raises what its writing raised."""
        if self._writing is not None:
            self._writing.exception()
            self.collect()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        try:
            self.wait()
        except Exception as problem:
            if kind is None:
                raise
            log.error("a checkpoint is missing: %s", problem)  # beside the error that ends the run
        finally:
            self._thread.shutdown()
