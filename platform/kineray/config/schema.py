"""The typed experiment: every number that decides the result of a run.

Values are frozen; unknown keys are refused. The dotted path of a field (``optim.lr``) is its name
everywhere: on the command line, in YAML, in Ray Tune, in MLflow and in reports.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kineray.config.data import DataConfig
from kineray.config.fields import (
    Floats,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Section,
)
from kineray.config.models import ModelConfig, SlowFastConfig
from kineray.config.tasks.base import TaskSection
from kineray.config.tasks.classification import ClassificationConfig


class SgdConfig(Section):
    """SGD with momentum. ``lr`` holds for ``reference_batch`` clips and is scaled linearly with the
    global batch (Goyal et al., arXiv 1706.02677). Batch-norm weights and biases are not decayed."""

    type: Literal["sgd"] = "sgd"
    lr: PositiveFloat = 0.1
    reference_batch: PositiveInt = 64
    momentum: Probability = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4


class AdamConfig(Section):
    """Adam with decoupled weight decay (AdamW); the learning rate is scaled as for SGD."""

    type: Literal["adam"] = "adam"
    lr: PositiveFloat = 1e-3
    reference_batch: PositiveInt = 64
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    weight_decay: NonNegativeFloat = 0.0


class RpropConfig(Section):
    """Rprop (Riedmiller and Braun, 1993), for batches that are a large part of the data.

    Every weight has a step size of its own, which begins with ``lr`` and then goes by the signs of its
    gradients alone; so the schedule changes only the beginning, and no batch size scales it.
    """

    type: Literal["rprop"] = "rprop"
    lr: PositiveFloat = 1e-3
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    grow: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.2


class TrainConfig(Section):
    """The schedule and what one step is.

    A step is one global batch. Batch-norm statistics are taken over groups of ``bn_group`` clips,
    however many clips a worker holds. The learning rate warms up linearly from ``warmup_lr`` (at
    ``optim.reference_batch``) over ``warmup_epochs``. Its ``schedule`` then is a half-period cosine to
    ``epochs``, or steps: ``optim.lr``, multiplied by ``decay`` at each of ``decay_epochs``.
    """

    epochs: PositiveInt = 196
    global_batch: PositiveInt = 1024
    bn_group: PositiveInt = 8
    warmup_epochs: NonNegativeFloat = 34.0
    warmup_lr: NonNegativeFloat = 0.01
    schedule: Literal["cosine", "steps"] = "cosine"
    decay_epochs: Floats = ()
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    precision: Literal["float32", "bfloat16"] = "float32"
    eval_every_epochs: PositiveInt = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.global_batch % self.bn_group:
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of bn_group {self.bn_group}"
            )
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leaves none of the {self.epochs} epochs")
        if self.decay_epochs and self.schedule != "steps":
            raise ValueError(f"decay_epochs need train.schedule=steps, not {self.schedule}")
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError("decay_epochs must ascend")
        return self


OptimConfig = Annotated[SgdConfig | AdamConfig | RpropConfig, Field(discriminator="type")]


class Experiment(Section):
    """One training run, whole. Two runs with equal experiments and manifests are the same science."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "experiment"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = SlowFastConfig()
    task: TaskSection = ClassificationConfig()
    optim: OptimConfig = SgdConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _whole_parts(self) -> Self:
        self.model.check_clip(self.data.frames, self.data.crop, self.data.eval_crop)
        if self.train.global_batch % self.data.clips_per_sample:
            raise ValueError(
                f"train.global_batch {self.train.global_batch} is not a multiple of data.clips_per_sample "
                f"{self.data.clips_per_sample}"
            )
        return self
