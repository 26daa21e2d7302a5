"""The typed experiment: every number that decides the result of a run.

Values are frozen; unknown keys are refused. The dotted path of a field (``optim.lr``) is its name
everywhere: on the command line, in YAML, in Ray Tune, in MLflow and in reports.
"""

from functools import reduce
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kineray.config.data import DataConfig
from kineray.config.fields import PositiveInt, Section
from kineray.config.models.base import ModelSection
from kineray.config.models.slowfast import SlowFastConfig
from kineray.config.optim.base import OptimSection
from kineray.config.optim.sgd import SgdConfig
from kineray.config.recipe.base import RecipePiece
from kineray.config.schedules.base import ScheduleSection
from kineray.config.schedules.cosine import CosineConfig
from kineray.config.tasks.base import TaskSection
from kineray.config.tasks.classification import ClassificationConfig
from kineray.config.variants import Pieces
from kineray.errors import ConfigError


class TrainConfig(Section):
    """What one step is, and how many there are.

    A step is one global batch. Batch-norm statistics are taken over groups of ``bn_group`` clips,
    however many clips a worker holds.
    """

    epochs: PositiveInt = 196
    global_batch: PositiveInt = 1024
    bn_group: PositiveInt = 8
    precision: Literal["float32", "bfloat16"] = "float32"
    eval_every_epochs: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.global_batch % self.bn_group:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of bn_group {self.bn_group}"
            )
        return self


class Experiment(Section):
    """One whole training run. Two runs with equal experiments and manifests are the same science."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "experiment"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = DataConfig()
    model: ModelSection = SlowFastConfig()
    task: TaskSection = ClassificationConfig()
    optim: OptimSection = SgdConfig()
    schedule: ScheduleSection = CosineConfig()
    train: TrainConfig = TrainConfig()
    recipe: Pieces[RecipePiece] = Pieces()

    @property
    def run_epochs(self) -> int:
        """How many epochs the run has: ``train.epochs``, unless a piece of the recipe changes them."""
        return reduce(lambda epochs, piece: piece.epochs(epochs), self.recipe.values(), self.train.epochs)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self.model.check_clip(self.data.frames, self.data.crop, self.data.eval_crop)
        self.schedule.check(self.train.epochs)
        for piece in self.recipe.values():
            piece.check(self)
        if self.data.balance != "none" and self.task.labels != "single":
            raise ConfigError(
                f"needs clips that have one class each, and those of task.type={self.task.type} have several",
                code="bad_value",
                key="data.balance",
                value=self.data.balance,
                remedy="use data.balance=none",
            )
        if self.data.drawn_views == 0:
            for name, piece in self.recipe.items():
                if piece.clip_sizes(self.data):
                    raise ConfigError(
                        f"the clips of evaluation have one size, and recipe.{name} changes it",
                        code="bad_value",
                        key="data.drawn_views",
                        value=0,
                        remedy=f"use data.drawn_views=none, or recipe.{name}=off",
                    )
        if self.train.global_batch % self.data.clips_per_sample:
            raise ConfigError(
                f"not a multiple of data.clips_per_sample={self.data.clips_per_sample}",
                code="bad_value",
                key="train.global_batch",
                value=self.train.global_batch,
            )
        return self
