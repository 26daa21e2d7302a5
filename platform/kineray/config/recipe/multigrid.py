"""Multigrid training."""

from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from kineray.config.fields import PositiveFloat, split_commas
from kineray.config.recipe.base import RecipePiece
from kineray.config.variants import imported
from kineray.errors import ConfigError

if TYPE_CHECKING:
    from kineray.config.data import DataConfig
    from kineray.config.schema import Experiment
    from kineray.training import StepPlan

Parts = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(split_commas)]

_ROOT = 0.5**0.5


class MultigridConfig(RecipePiece, type="multigrid", builds="kineray.training.recipe.base.Piece"):
    """Trains on more and smaller clips for most of the time (Wu et al., arXiv 1912.00998).

    The clips of a step have a part of ``data.frames`` and ``data.crop``, and the global batch is as many
    times larger as they have fewer pixels, so that all steps cost about the same; batch-norm groups stay as
    they are. In the long cycle these parts change every few epochs: ``long_frames`` and ``long_crops``, one
    cycle up to each epoch at which the schedule lowers the learning rate in a step, and the last shape from
    then on (one cycle in all for a smooth schedule). The learning rate is scaled by its batch. In the short
    cycle the crop changes from batch to batch: ``short_crops`` (none: no short cycle) of ``data.crop``, and
    then the long cycle's. Epochs are ``epoch_factor`` times ``train.epochs``, and the schedule is stretched;
    its warm-up, and the epochs of other pieces, count epochs as they are run.

    The defaults, and what is not in the paper, are those of PySlowFast. The smallest ``data.short_side`` is
    scaled with the crop. Clips with fewer frames have a random stride, up to that with which they span as
    much time as usual. The clips that do not fill the next batch at the end of an epoch are dropped.
    """

    long_frames: Parts = (0.25, 0.5, 0.5, 1.0)
    long_crops: Parts = (_ROOT, _ROOT, 1.0, 1.0)
    short_crops: Annotated[Parts, BeforeValidator(lambda value: value or ())] = (0.5, _ROOT)
    epoch_factor: PositiveFloat = 1.5

    @model_validator(mode="after")
    def _shapes_are_whole(self) -> Self:
        if len(self.long_frames) != len(self.long_crops) or not self.long_crops:
            raise ValueError(
                f"long_frames and long_crops have {len(self.long_frames)} and {len(self.long_crops)} parts"
            )
        return self

    def cycles(self, data: "DataConfig") -> list[list[tuple[int, int]]]:
        """Frames and crop of the clips in each part of the long cycle: in the short cycle, its own last."""
        long = zip(self.long_frames, self.long_crops, strict=True)
        return [
            [(_part(data.frames, frames), _part(data.crop, side)) for side in (*self.short_crops, crop)]
            for frames, crop in long
        ]

    def clip_sizes(self, data: "DataConfig") -> list[tuple[int, int]]:
        """All that occur."""
        return sorted({size for cycle in self.cycles(data) for size in cycle})

    def epochs(self, epochs: int) -> int:
        """``epoch_factor`` times as many."""
        return max(round(epochs * self.epoch_factor), 1)

    def check(self, experiment: "Experiment") -> None:
        """Raise ConfigError for clips of a fixed length, and for a network that does not take all sizes."""
        data = experiment.data
        if data.sampling == "sequences":
            raise self._refused("needs clips whose length can change, not data.sampling=sequences")
        for frames, crop in self.clip_sizes(data):
            try:
                experiment.model.check_clip(frames, crop, data.eval_crop)
            except ConfigError as error:
                size = f"clips of {frames} frames of {crop} x {crop} pixels"
                kind = f"model.type={experiment.model.type}"
                raise self._refused(f"needs {size}, which {kind} does not take: {error.problem}") from None

    def plan(self, experiment: "Experiment", samples: int) -> "StepPlan":
        """A plan whose steps differ in batch, clips and learning rate."""
        plan: StepPlan = imported("kineray.training.multigrid.MultigridPlan")(experiment, samples, self)
        return plan

    def _refused(self, problem: str) -> ConfigError:
        return ConfigError(
            problem,
            code="wrong_shape",
            key="recipe.multigrid",
            remedy="change its long_frames, long_crops or short_crops, or set recipe.multigrid=off",
        )


def _part(whole: int, part: float) -> int:
    return max(round(whole * part), 1)
