"""The shape of a run, known before anything starts: its batches, its steps, its learning-rate curve."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from kineray.config import Experiment
from kineray.data import ClipShape
from kineray.training.plan import Step, StepPlan, check_micro_batch, plan_of

_TOLERANCE = 0.01  # of the highest learning rate: how far straight lines may be from the curve
_SHOWN = 8  # points of the curve in a line of text


@dataclass(frozen=True)
class StepKind:
    """Steps that are made of as many clips of the same size: ``steps`` of them.

    ``clip``: with the shortest stride, if they differ up to ``longest_stride``. ``micro_batch``: clips that a
    worker holds at once; ``micro_batches``: how many the busiest worker needs, None if the number of workers
    is not known yet.
    """

    global_batch: int
    bn_group: int
    clip: ClipShape
    longest_stride: int
    steps: int
    micro_batch: int
    micro_batches: int | None

    @classmethod
    def of(
        cls, steps: Sequence[Step], usual: ClipShape | None, micro_batch: int, workers: int | None
    ) -> Self:
        """What ``steps`` have in common; ``usual``: as in ``Step.batch``."""
        first, strides = steps[0], {step.clip.stride for step in steps}
        batch = first.batch(0, 1, micro_batch, usual)
        return cls(
            global_batch=first.global_batch,
            bn_group=first.bn_group,
            clip=replace(first.clip, stride=min(strides)),
            longest_stride=max(strides),
            steps=len(steps),
            micro_batch=batch.micro_batch,
            micro_batches=None if workers is None else _most_parts(first, workers, batch.micro_batch),
        )


@dataclass(frozen=True)
class CurvePoint:
    """The learning rate of one step, counted from 0, before which ``epoch`` epochs were completed."""

    step: int
    epoch: float
    lr: float


@dataclass(frozen=True)
class RunShape:
    """What a run will do, as far as its plan says.

    ``clips_per_epoch``: training clips, of which up to ``dropped_clips`` do not fill a last batch.
    ``steps_per_epoch``: the fewest and the most, which differ where batches do. ``kinds``: the steps by what
    they are made of. ``workers``: None if not known yet. ``micro_batch``: clips of the usual shape that a
    worker holds at once. ``curve``: the learning rate where its slope changes. Straight lines between these
    steps are nowhere further from the learning rate than 1 % of its highest value. Schedules and pieces of
    the recipe that follow validation may lower it, and end the run earlier.
    """

    clips_per_epoch: int
    dropped_clips: int
    epochs: int
    steps_per_epoch: tuple[int, int]
    total_steps: int
    kinds: tuple[StepKind, ...]
    workers: int | None
    micro_batch: int
    curve: tuple[CurvePoint, ...]

    @classmethod
    def of(
        cls,
        plan: StepPlan,
        clips_per_epoch: int,
        micro_batch: int,
        workers: int | None = None,
        usual: ClipShape | None = None,
    ) -> Self:
        """The shape of a plan; ``usual``: as in ``Step.batch``.

        Raises ConfigError for more ``workers`` than there are batch-norm groups in a step.
        """
        steps = [plan.at(index) for index in range(plan.total_steps)]
        kinds = defaultdict[object, list[Step]](list)
        for step in steps:
            kinds[step.global_batch, step.bn_group, replace(step.clip, stride=1)].append(step)
        lengths = Counter(step.epoch for step in steps)
        read = Counter[int]()
        for step in steps:
            read[step.epoch] += step.global_batch
        return cls(
            clips_per_epoch=clips_per_epoch,
            dropped_clips=clips_per_epoch - min(read.values()),
            epochs=len(lengths),
            steps_per_epoch=(min(lengths.values()), max(lengths.values())),
            total_steps=len(steps),
            kinds=tuple(StepKind.of(alike, usual, micro_batch, workers) for alike in kinds.values()),
            workers=workers,
            micro_batch=micro_batch,
            curve=_curve(steps),
        )

    def lines(self) -> dict[str, str]:
        """The shape for people, in a few short lines: batch, clips, steps and learning rate."""
        return {
            "batch": " or ".join(dict.fromkeys(map(self._batch, self.kinds))),
            "clips": " or ".join(dict.fromkeys(map(_clip, self.kinds))),
            "steps": self._steps(),
            "lr": ", ".join(map(_point, _thinned(self.curve, _SHOWN))),
        }

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)

    def _batch(self, kind: StepKind) -> str:
        text = f"{kind.global_batch} clips in batch-norm groups of {kind.bn_group}"
        if self.workers is None or kind.micro_batches is None:
            return f"{text}, {kind.micro_batch} at once in each worker"
        workers = f"{self.workers} worker{'s' * (self.workers > 1)}"
        parts = f"{kind.micro_batches} micro-batch{'es' * (kind.micro_batches > 1)}"
        return f"{text}: {workers}, {parts} of {kind.micro_batch}"

    def _steps(self) -> str:
        fewest, most = self.steps_per_epoch
        an_epoch = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        return (
            f"{self.total_steps} in {self.epochs} epoch{'s' * (self.epochs > 1)}, {an_epoch} an epoch of "
            f"{self.clips_per_epoch} clips ({self.dropped_clips} left over)"
        )


def shape_of(
    experiment: Experiment, samples: int, *, micro_batch: int | None = None, workers: int | None = None
) -> RunShape:
    """The shape of an experiment on ``samples`` training samples.

    ``micro_batch``: as in ``WorkerOptions``. Raises ConfigError.
    """
    clips = samples * experiment.data.clips_per_sample
    size = check_micro_batch(micro_batch, experiment.train.bn_group)
    plan, usual = plan_of(experiment, samples), ClipShape.of(experiment.data)
    return RunShape.of(plan, clips, size, workers, usual)


def _most_parts(step: Step, workers: int, micro_batch: int) -> int:
    """How many micro-batches the busiest worker makes of its share of a step."""
    batches = [step.batch(rank, workers, micro_batch) for rank in range(workers)]
    return max(len(batch.parts()) for batch in batches)


def _curve(steps: Sequence[Step]) -> tuple[CurvePoint, ...]:
    rates = np.array([step.lr for step in steps])
    before = [0.0, *(step.epochs_done for step in steps)]
    kept = _corners(rates, _TOLERANCE * float(rates.max()))
    return tuple(CurvePoint(index, before[index], steps[index].lr) for index in kept)


def _corners(values: "np.ndarray[Any, np.dtype[np.float64]]", tolerance: float) -> list[int]:
    """Indices between which straight lines are at most ``tolerance`` from ``values``.

    By the algorithm of Ramer (1972), Douglas and Peucker (1973), with vertical distances.
    """
    kept = {0, len(values) - 1}
    open_spans = [(0, len(values) - 1)]
    while open_spans:
        first, last = open_spans.pop()
        inner = np.arange(first + 1, last)
        if not len(inner):
            continue
        line = np.interp(inner, [first, last], values[[first, last]])
        distances = np.abs(values[inner] - line)
        if distances.max() <= tolerance:
            continue
        corner = int(inner[distances.argmax()])
        kept.add(corner)
        open_spans += [(first, corner), (corner, last)]
    return sorted(kept)


def _thinned(points: Sequence[CurvePoint], most: int) -> Iterable[CurvePoint | None]:
    """All of ``points``, or the first, the highest and the last ones around None."""
    if len(points) <= most:
        return points
    peak = max(points, key=lambda point: point.lr)
    head = list(dict.fromkeys([points[0], peak]))
    return [*head, None, *points[-2:]]


def _point(point: CurvePoint | None) -> str:
    if point is None:
        return "..."
    return f"{point.lr:.3g} (epoch {point.epoch:.4g})"


def _clip(kind: StepKind) -> str:
    clip, longest = kind.clip, kind.longest_stride
    stride = f"{clip.stride} to {longest}" if longest > clip.stride else f"{clip.stride}"
    return f"{clip.frames} frames with a stride of {stride}, {clip.crop} x {clip.crop} pixels"
