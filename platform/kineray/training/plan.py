"""What each step of a run is, as a value."""

import json
import math
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

from kineray.config import Experiment
from kineray.data import BatchSpec, ClipShape, steps_per_epoch
from kineray.errors import ConfigError
from kineray.training.schedule import learning_rate


@dataclass(frozen=True)
class Step:
    """One update: which clips it is made of, and how.

    ``index`` counts from 0. The global batch is the ``global_batch`` clips from place ``first`` on in the
    order of ``epoch``; batch-norm statistics are taken over groups of ``bn_group`` of them. ``clip`` is
    the shape of the clips, ``lr`` the learning rate. ``trained``: patterns (``head.*``) for the names of the
    parameters that are updated, among those that the model does not freeze; None for all of them. The last
    pattern that matches decides, and those that begin with ``!`` are for parameters that are not updated.
    ``epochs_done``: epochs completed after the step; ``is_validated``: whether validation follows it.
    """

    index: int
    epoch: int
    first: int
    global_batch: int
    bn_group: int
    clip: ClipShape
    lr: float
    epochs_done: float
    is_validated: bool = False
    trained: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.global_batch % self.bn_group:
            raise ValueError(f"{self.global_batch} clips are not whole groups of {self.bn_group}")

    def share(self, rank: int, world_size: int) -> range:
        """The positions in the global batch, from 0 on, that ``rank`` holds: whole batch-norm groups.

        Raises ConfigError if there are fewer groups than workers.
        """
        size = self.bn_group
        groups = self.global_batch // size
        if world_size > groups:
            raise ConfigError(
                f"a global batch of {self.global_batch} clips has only {groups} batch-norm groups of "
                f"train.bn_group={size} for {world_size} workers",
                code="too_many_workers",
                key="workers",
                remedy=f"use at most {groups} `workers`",
            )
        return range(groups * rank // world_size * size, groups * (rank + 1) // world_size * size)

    def batch(
        self, rank: int, world_size: int, micro_batch: int, usual: ClipShape | None = None
    ) -> BatchSpec:
        """What ``rank`` loads, in micro-batches of ``micro_batch`` clips, rounded down to whole groups.

        ``usual``: the shape of clips of which ``micro_batch`` take the memory that there is; by default the
        step's.
        """
        if usual is not None:
            micro_batch = micro_batch * usual.pixels // self.clip.pixels
        share = self.share(rank, world_size)
        positions = range(self.first + share.start, self.first + share.stop)
        whole_groups = max(micro_batch // self.bn_group, 1) * self.bn_group
        return BatchSpec(self.index, self.epoch, positions, whole_groups, self.clip)

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name is updated."""
        if self.trained is None:
            return True
        fitting = [pattern for pattern in self.trained if fnmatchcase(name, pattern.removeprefix("!"))]
        return bool(fitting) and not fitting[-1].startswith("!")

    def to_dict(self) -> dict[str, Any]:
        """The step in plain JSON values."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields


class StepPlan(Protocol):
    """What every step of a run is, a pure function of its number.

    The loader, the loop, the schedule and the resume check read it and nothing else. Batch, clip
    shape, learning rate and what is trained may differ from step to step; an epoch need not be a whole
    number of equal batches.
    """

    @property
    def total_steps(self) -> int:
        """How many steps the run has."""
        ...

    def at(self, index: int) -> Step:
        """The step of this number, from 0 to ``total_steps`` - 1."""
        ...


@dataclass(frozen=True)
class ExperimentPlan:
    """The usual plan of an experiment on ``samples`` training samples.

    Steps differ in learning rate, and in what they train if the recipe has a piece that freezes parameters.

    Global batch b of an epoch is the clips from b * ``train.global_batch`` on; the clips left over at the end
    are dropped. Raises ConfigError if an epoch does not fill one batch.
    """

    experiment: Experiment
    samples: int

    def __post_init__(self) -> None:
        _ = self.steps_per_epoch

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""
        data, train = self.experiment.data, self.experiment.train
        return steps_per_epoch(self.samples, train.global_batch, data.clips_per_sample)

    @property
    def total_steps(self) -> int:
        """How many steps the run has."""
        return self.steps_per_epoch * self.experiment.train.epochs

    def at(self, index: int) -> Step:
        """The step of this number, from 0 to ``total_steps`` - 1."""
        train, per_epoch = self.experiment.train, self.steps_per_epoch
        epoch, batch = divmod(index, per_epoch)
        is_last = index + 1 == self.total_steps
        ends_epoch = batch + 1 == per_epoch and (epoch + 1) % train.eval_every_epochs == 0
        return Step(
            index=index,
            epoch=epoch,
            first=batch * train.global_batch,
            global_batch=train.global_batch,
            bn_group=train.bn_group,
            clip=ClipShape.of(self.experiment.data),
            lr=learning_rate(index / per_epoch, self.experiment),
            epochs_done=(index + 1) / per_epoch,
            is_validated=is_last or ends_epoch,
            trained=trained_in(epoch, self.experiment),
        )


def plan_of(experiment: Experiment, samples: int) -> StepPlan:
    """The plan of an experiment on ``samples`` training samples: that of a piece of its recipe, or the usual.

    Raises ConfigError if an epoch does not fill one batch, and if two pieces have a plan.
    """
    plans = {name: piece.plan(experiment, samples) for name, piece in experiment.recipe.items()}
    own = {name: plan for name, plan in plans.items() if plan is not None}
    if len(own) > 1:
        raise ConfigError(
            f"{' and '.join(own)} both change what the steps of a run are",
            code="two_plans",
            key=f"recipe.{[*own][1]}",
            remedy=f"switch one off, as with recipe.{[*own][1]}=off",
        )
    return next(iter(own.values()), None) or ExperimentPlan(experiment, samples)


def trained_in(epoch: int, experiment: Experiment) -> tuple[str, ...] | None:
    """``Step.trained`` of an epoch, as the pieces of the recipe say."""
    trained = [pattern for piece in experiment.recipe.values() for pattern in piece.trained(epoch)]
    return ("*", *trained) if trained else None


def seen_before_validation(step: Step, experiment: Experiment, samples: int) -> dict[str, list[Step]]:
    """By piece of the recipe: the global batches that it sees before the validation after ``step``, if any.

    They are the first of the next epoch, and have the shape and number of clips that ``experiment`` says;
    they are steps that update nothing, and have the number of ``step``. ``samples``: of an epoch. Which clips
    they are depends on the epoch alone, so all validations in an epoch see the same.
    """
    wanted = {name: piece.batches_before_validation for name, piece in experiment.recipe.items()}
    if not step.is_validated or not any(wanted.values()):
        return {}
    data, size = experiment.data, experiment.train.global_batch
    usual = replace(step, epoch=step.epoch + 1, global_batch=size, clip=ClipShape.of(data))
    available = steps_per_epoch(samples, size, data.clips_per_sample)
    return {
        name: [replace(usual, first=number * size) for number in range(min(batches, available))]
        for name, batches in wanted.items()
    }


def differing_fields(made: dict[str, Any], planned: Step) -> list[str]:
    """Names of the fields in which a step that was made (``Step.to_dict``, from JSON) is not as planned.

    Learning rates may differ in their last digits, which depend on the machine's mathematics library.
    """
    wanted = planned.to_dict()
    return [name for name in wanted if not _alike(made.get(name), wanted[name])]


def _alike(made: Any, wanted: Any) -> bool:
    if isinstance(wanted, float):
        return isinstance(made, float) and math.isclose(made, wanted, rel_tol=1e-9)
    return bool(made == wanted)


def check_micro_batch(micro_batch: int | None, group: int) -> int:
    """``micro_batch``, or ``group`` for None. Raises ConfigError unless it is a multiple of ``group``."""
    if micro_batch is None:
        return group
    if micro_batch < 1 or micro_batch % group:
        raise ConfigError(
            f"{micro_batch} is not a multiple of train.bn_group={group}, the clips over which batch-norm "
            "statistics are taken",
            code="not_whole_groups",
            key="micro_batch",
            remedy=f"use `micro_batch` {max(micro_batch // group, 1) * group}",
        )
    return micro_batch
