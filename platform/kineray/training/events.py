"""What a training run reports while it runs: plain values, safe to send to another process."""

from dataclasses import dataclass

from kineray.data import Failure


@dataclass(frozen=True)
class Goodput:
    """What the ``seconds`` of a run were spent on.

    ``effective``: the share (0 to 1) of steps that count, without their waits for clips. ``badput``: the
    shares of everything else, by cause; together they are 1. ``lost_steps``: number of steps that were made
    again after a failure.
    """

    seconds: float
    effective: float
    badput: dict[str, float]
    lost_steps: int


@dataclass(frozen=True)
class WaitingEvent:
    """Before its first step the run waits for ``cause``, such as "Ray"."""

    cause: str


@dataclass(frozen=True)
class StartedEvent:
    """The first step is done; ``seconds``: how long the run waited, by cause."""

    seconds: dict[str, float]


@dataclass(frozen=True)
class ContinuedEvent:
    """A run goes on from a checkpoint with other values; ``message``: which, and what that changes."""

    message: str


@dataclass(frozen=True)
class InitialisedEvent:
    """A ``part`` of the network ("" for all of it) got its initial weights.

    ``message``: which tensors were loaded and which are new, or a warning that a frozen backbone has random
    weights.
    """

    part: str
    message: str


@dataclass(frozen=True)
class FeaturesEvent:
    """Features of a frozen backbone are computed, or read; ``message``: of how many clips, and where."""

    message: str


@dataclass(frozen=True)
class StepEvent:
    """One step is done: ``step`` of ``total_steps``, counted from 1.

    ``clips_per_s`` counts the clips of all workers. ``data_wait`` and ``copy`` are the shares (0 to 1) of
    the step in which the first worker waited for clips and copied them to its device; the rest is
    ``compute``, the wait for the other workers' gradients included. ``seconds``: duration of the step.
    ``goodput``: the share of the run's time until now that was spent on steps that count, if it is known.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float
    lr: float
    clips_per_s: float
    data_wait: float
    copy: float
    seconds_left: float
    seconds: float = 0.0
    goodput: float | None = None

    @property
    def compute(self) -> float:
        """Share of the step that was neither spent waiting for clips nor copying them."""
        return max(1.0 - self.data_wait - self.copy, 0.0)


@dataclass(frozen=True)
class ValidationEvent:
    """Validation after ``epoch`` epochs.

    ``score`` decides which checkpoint is the best; it is the metric ``score_name``, such as ``action/top1``.
    ``precision``: of the model's arithmetic, which is float32 in an evaluation. ``weights``: which weights
    were validated, those of the ``model`` or of a piece of the recipe (``ema``). ``seconds``: its duration.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    score: float
    score_name: str
    precision: str
    weights: str
    seconds: float = 0.0


@dataclass(frozen=True)
class CheckpointEvent:
    """A checkpoint is complete at ``uri``; ``best``: its validation score is the highest so far.

    ``score`` is None if it was saved without a validation. ``seconds``: how long training waited for it.
    """

    step: int
    uri: str
    best: bool
    score: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class CheckpointDelayedEvent:
    """The checkpoint of ``step`` cannot be written now, because of ``problem``; training goes on.

    It is tried again in ``seconds``.
    """

    step: int
    problem: str
    seconds: float


@dataclass(frozen=True)
class SnapshotEvent:
    """Each host has the state after ``step`` in its memory, which took ``seconds`` on the first one."""

    step: int
    seconds: float


@dataclass(frozen=True)
class StragglerEvent:
    """The worker ``rank`` on ``host`` is slower than the others, ``since`` that step.

    Its part of a step, before the workers wait for each other, takes ``ratio`` times as long as that of a
    typical worker because of ``cause``: ``data wait``, ``copy`` or ``compute``.
    """

    step: int
    rank: int
    host: str
    cause: str
    ratio: float
    since: int


@dataclass(frozen=True)
class ReplacedEvent:
    """Clips of this step could not be decoded and others took their places."""

    step: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class EndedEvent:
    """The run is at its end; ``goodput``: what its time was spent on."""

    goodput: Goodput


Event = (
    WaitingEvent
    | StartedEvent
    | ContinuedEvent
    | InitialisedEvent
    | FeaturesEvent
    | StepEvent
    | ValidationEvent
    | CheckpointEvent
    | CheckpointDelayedEvent
    | SnapshotEvent
    | StragglerEvent
    | ReplacedEvent
    | EndedEvent
)


@dataclass(frozen=True)
class TrainResult:
    """Steps made, the ``best`` and the ``last`` validation score (0 to 1), and where those checkpoints are.

    ``score``: the name of both, such as ``action/top1``.
    """

    step: int
    score: str
    best: float | None
    last: float | None
    best_uri: str | None
    last_uri: str | None
