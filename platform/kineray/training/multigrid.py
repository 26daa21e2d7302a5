"""The plan of multigrid training: Wu, Girshick, He, Feichtenhofer, Krähenbühl, arXiv 1912.00998.

As in PySlowFast. For SlowFast 8x8 on Kinetics-400, whose usual schedule has 239 epochs and lowers the
learning rate after 94, 154 and 196 of them, a clip of T frames of S pixels in batches of B becomes

    epochs           clips                 batch in the short cycle    learning rate
    0 - 73           T/4 x 0.71 S          16 B, 8 B, 8 B              8
    73 - 110         T/2 x 0.71 S          8 B, 4 B, 4 B               4
    110 - 142        T/2 x S               8 B, 4 B, 2 B               2
    142 - 158        T x S                 4 B, 2 B, B                 1
    158 - 259, 259 - 329                   the same, twice             a tenth, a hundredth of it
    329 - 343, 343 - 358    T x S          4 B, 2 B, B                 0.01, 0.001

"We find that [linear scaling] is harmful if we apply it to mini-batch changes due to the short cycle".
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from kineray.config import Experiment
from kineray.config.recipe.multigrid import MultigridConfig
from kineray.data import ClipShape, steps_per_epoch
from kineray.data.clips.seeds import pcg64
from kineray.errors import ConfigError
from kineray.training.plan import Step, trained_in
from kineray.training.schedule import learning_rate


@dataclass(frozen=True)
class Grid:
    """Clips of ``frames`` frames of ``crop`` pixels, ``batch`` times as many as usual in a global batch."""

    batch: int
    frames: int
    crop: int


@dataclass(frozen=True)
class Phase:
    """Epochs with one shape of the long cycle.

    ``grids``: of the batches of the short cycle, which take turns; the last one is the long cycle's own.
    ``clips``: in an epoch, of which the ``dropped`` last ones are not used; ``usual``: in a usual batch.
    """

    epochs: range
    first_step: int
    grids: tuple[Grid, ...]
    clips: int
    usual: int

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The place of the first clip of each batch of a short cycle, and of the next one."""
        return tuple(accumulate((grid.batch * self.usual for grid in self.grids), initial=0))

    def place(self, number: int) -> int:
        """The place in an epoch of the first clip of its batch ``number``."""
        cycle, turn = divmod(number, len(self.grids))
        return cycle * self.starts[-1] + self.starts[turn]

    @cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        cycles, rest = divmod(self.clips, self.starts[-1])
        return cycles * len(self.grids) + bisect_right(self.starts, rest) - 1

    @property
    def dropped(self) -> int:
        """Clips at the end of an epoch that do not fill its next batch."""
        return self.clips - self.place(self.steps)


@dataclass(frozen=True)
class MultigridPlan:
    """The plan of an experiment with ``recipe.multigrid`` on ``samples`` training samples.

    Raises ConfigError if an epoch does not fill one batch of every shape.
    """

    experiment: Experiment
    samples: int
    config: MultigridConfig

    def __post_init__(self) -> None:
        _ = self.phases

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """All phases that have epochs."""
        data, usual = self.experiment.data, self.experiment.train.global_batch
        steps_per_epoch(self.samples, usual, data.clips_per_sample)  # refuses too few
        clips, first_step, phases = self.samples * data.clips_per_sample, 0, list[Phase]()
        for grids, epochs in self._spans():
            phase = Phase(epochs, first_step, grids, clips, usual)
            if epochs and not phase.steps:
                raise ConfigError(
                    f"{clips} clips do not fill a batch of {grids[0].batch * usual}, which is "
                    f"{grids[0].batch} times train.global_batch for clips of {grids[0].frames} x "
                    f"{grids[0].crop} x {grids[0].crop}",
                    code="batch_larger_than_epoch",
                    key="recipe.multigrid",
                    remedy="make train.global_batch smaller, or the clips larger",
                )
            if epochs:
                phases.append(phase)
                first_step += phase.steps * len(epochs)
        return tuple(phases)

    @property
    def total_steps(self) -> int:
        """How many steps the run has."""
        last = self.phases[-1]
        return last.first_step + last.steps * len(last.epochs)

    def at(self, index: int) -> Step:
        """The step of this number, from 0 to ``total_steps`` - 1."""
        train = self.experiment.train
        phase = self.phases[bisect_right(self.phases, index, key=lambda phase: phase.first_step) - 1]
        epochs, number = divmod(index - phase.first_step, phase.steps)
        epoch = phase.epochs[epochs]
        grid = phase.grids[number % len(phase.grids)]
        ends_epoch = number + 1 == phase.steps and (epoch + 1) % train.eval_every_epochs == 0
        return Step(
            index=index,
            epoch=epoch,
            first=phase.place(number),
            global_batch=grid.batch * train.global_batch,
            bn_group=train.bn_group,
            clip=self._clip(grid, index),
            lr=learning_rate(epoch + number / phase.steps, self.experiment, self._factor),
            epochs_done=epoch + (number + 1) / phase.steps,
            is_validated=ends_epoch or index + 1 == self.total_steps,
            trained=trained_in(epoch, self.experiment),
        )

    def _clip(self, grid: Grid, index: int) -> ClipShape:
        """The shape of the clips of a step; its stride is drawn for that step."""
        data = self.experiment.data
        low, high = data.short_side
        strides = data.stride * (data.frames // grid.frames) - data.stride + 1
        drawn = int(pcg64("multigrid", self.experiment.seed, index).random_raw()) % strides
        return ClipShape(
            grid.frames, data.stride + drawn, (round(low * grid.crop / data.crop), high), grid.crop
        )

    @cached_property
    def _grids(self) -> list[tuple[Grid, ...]]:
        data = self.experiment.data
        pixels = data.frames * data.crop**2
        return [
            tuple(Grid(max(round(pixels / (t * s * s)), 1), t, s) for t, s in cycle)
            for cycle in self.config.cycles(data)
        ]

    @cached_property
    def _drops(self) -> list[float]:
        """The usual epochs at which the learning rate falls in a step."""
        epochs = self.experiment.train.epochs
        return [drop for drop in self.experiment.schedule.drops if 0 < drop < epochs]

    def _spans(self) -> Iterator[tuple[tuple[Grid, ...], range]]:
        """Grids and epochs of all phases; all shapes of a long cycle get the same number of steps."""
        epochs, ends = self.experiment.train.epochs, self._drops or [self.experiment.train.epochs]
        means = [sum(grid.batch for grid in grids) / len(grids) for grids in self._grids]
        lengths = [(stop - start) * mean for start, stop in pairwise((0, *ends)) for mean in means]
        lengths.append((epochs - ends[-1]) * means[-1] * len(means))  # with the last shape
        scale = epochs * self.config.epoch_factor / sum(lengths)
        bounds = [round(length * scale) for length in accumulate(lengths, initial=0)]
        for number, (start, stop) in enumerate(pairwise([*bounds[:-1], self.experiment.run_epochs])):
            is_last = number == len(lengths) - 1
            yield self._grids[-1 if is_last else number % len(means)], range(start, stop)

    @cached_property
    def _knots(self) -> tuple[list[int], list[float]]:
        """Epochs of the run, and the usual epochs whose place in the schedule they take."""
        usual = [0.0, *self._drops, float(self.experiment.train.epochs)]
        ends = [epochs.stop for _, epochs in self._spans()]
        cycle = len(self._grids)
        run = [0, *ends[cycle - 1 : cycle * len(self._drops) : cycle], self.experiment.run_epochs]
        if self._drops:
            run[-2] = (run[-2] + run[-1]) // 2  # the last shape is trained with the rate before the last too
        return run, usual

    def _factor(self, epoch: float) -> float:
        """The factor of ``optim.lr`` after ``epoch`` epochs of the run, without warm-up."""
        run, usual = self._knots
        knot = min(bisect_right(run, epoch), len(run) - 1) - 1
        speed = (usual[knot + 1] - usual[knot]) / (run[knot + 1] - run[knot])
        usual_epoch = usual[knot] + (epoch - run[knot]) * speed
        phase = self.phases[bisect_right(self.phases, epoch, key=lambda phase: phase.epochs.start) - 1]
        scheduled = self.experiment.schedule.factor(usual_epoch, self.experiment.train.epochs)
        return phase.grids[-1].batch * scheduled
