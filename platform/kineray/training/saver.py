"""When and where the state of a run is kept."""

import logging
import time
from collections.abc import Callable
from types import TracebackType

from kineray.data import Preprocessing
from kineray.durations import seconds_of
from kineray.options import WorkerOptions
from kineray.training.cadence import Cadence
from kineray.training.checkpoint import CheckpointStore
from kineray.training.checkpoint_writer import CheckpointWriter
from kineray.training.events import Event, SnapshotEvent
from kineray.training.plan import Step
from kineray.training.snapshots import Snapshots
from kineray.training.state import TrainingState

CHECKPOINT, SNAPSHOT = 1, 2  # what rank 0 may request of all workers for the end of a step

log = logging.getLogger(__name__)


class Saver:
    """Keeps the state of a run: in checkpoints, which rank 0 writes, and in the memory of every host.

    Rank 0 decides what is due; the others learn it with the sums of the step.
    """

    def __init__(
        self,
        checkpoints: CheckpointStore,
        snapshots: Snapshots | None,
        preprocessing: Preprocessing,
        weights: str,
        options: WorkerOptions,
        *,
        start: int,
        emit: Callable[[Event], None],
        rank: int,
    ) -> None:
        """``weights``: the piece of the recipe whose weights evaluate, or ``model``.

        ``start``: number of steps that the run has made.
        """
        self._writer = CheckpointWriter(checkpoints, emit, seconds_of(options.storage_patience))
        self._snapshots = snapshots
        self._preprocessing, self._weights, self._emit, self._rank = preprocessing, weights, emit, rank
        self._checkpoint_due = Cadence(options.checkpoint_every, start)
        self._takes_snapshots = snapshots is not None and options.snapshot_every != 0
        self._snapshot_due = Cadence(options.snapshot_every or None, start)

    def request(self, step: Step) -> int:
        """What all workers are to do after ``step``.

        A snapshot never replaces a validation, nor its checkpoint: there is none in a step with a validation,
        or while a checkpoint is being written.
        """
        done = step.index + 1
        if self._rank != 0:
            return 0
        if self._checkpoint_due.due(done):
            return CHECKPOINT
        is_safe = self._writer.is_idle and not step.is_validated
        return SNAPSHOT if is_safe and self._takes_snapshots and self._snapshot_due.due(done) else 0

    def collect(self) -> None:
        """Report a checkpoint that is complete now. Raises what its writing raised."""
        self._writer.collect()

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, so that its event precedes those that follow."""
        self._writer.wait()

    def save(self, state: TrainingState, score: float | None) -> None:
        """Begin a checkpoint; ``score``: of the validation just made, if any."""
        if self._rank == 0:
            self._writer.save(state, self._preprocessing, score=score, weights=self._weights)
            self._checkpoint_due.done(state.state["step"])

    def snapshot(self, state: TrainingState) -> None:
        """Keep ``state`` in the memory of this host, if this worker is the one that does so."""
        if self._snapshots is None:
            return
        began = time.perf_counter()
        try:
            self._snapshots.save(state)
        except OSError as error:
            log.warning("no snapshots on this host, only checkpoints: %s", error)
            self._snapshots, self._takes_snapshots = None, False
            return
        step, seconds = state.state["step"], time.perf_counter() - began
        self._snapshot_due.done(step, seconds)
        self._emit(SnapshotEvent(step, seconds))

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)
