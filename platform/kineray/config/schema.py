"""The typed experiment: every number that decides the result of a run.

Values are frozen; unknown keys are refused. The dotted path of a field (``optim.lr``) is its name
everywhere: on the command line, in YAML, in Ray Tune, in MLflow and in reports.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _split_commas(value: object) -> object:
    """``"1,2,3"`` -> ``["1", "2", "3"]``: how a sequence is written on a command line."""
    if isinstance(value, str):
        return [part for part in value.split(",") if part]
    return value


Ints4 = Annotated[tuple[int, int, int, int], BeforeValidator(_split_commas)]
IntRange = Annotated[tuple[int, int], BeforeValidator(_split_commas)]
Ints = Annotated[tuple[int, ...], BeforeValidator(_split_commas)]
Floats3 = Annotated[tuple[float, float, float], BeforeValidator(_split_commas)]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of every part of an experiment: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Section):
    """Which clips are read, and how a clip is cut from a video.

    A clip is ``frames`` frames, ``stride / fps`` seconds apart (32 x 2 at 30 fps spans 2.1 s).
    ``short_side`` is the range of the random resize in training, ``crop`` the square that is cut
    from it; ``eval_short_side`` and ``eval_crop`` are their fixed counterparts in evaluation.
    """

    manifest: str = ""
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    fps: PositiveFloat = 30.0
    short_side: IntRange = (256, 320)
    crop: PositiveInt = 224
    flip: bool = True
    eval_short_side: PositiveInt = 256
    eval_crop: PositiveInt = 256
    mean: Floats3 = (0.45, 0.45, 0.45)
    std: Floats3 = (0.225, 0.225, 0.225)
    error_budget: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        low, high = self.short_side
        if low > high:
            raise ValueError(f"short_side must be low,high; got {low},{high}")
        if self.crop > low:
            raise ValueError(f"crop {self.crop} is larger than the smallest short_side {low}")
        if self.eval_crop > self.eval_short_side:
            raise ValueError(
                f"eval_crop {self.eval_crop} is larger than eval_short_side {self.eval_short_side}"
            )
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class SlowFastConfig(Section):
    """SlowFast networks (Feichtenhofer et al., arXiv 1812.03982); the defaults are R50 4x16.

    ``alpha``: the Fast pathway reads alpha times more frames than the Slow one. ``beta_inv``: it has
    1/beta_inv of its channels. ``fusion_ratio`` and ``fusion_kernel``: channels (relative to the Fast
    pathway's) and temporal size of the lateral connections. ``temporal_kernels_slow/_fast``: temporal
    size of conv a in res2..res5; ``temporal_blocks``: how many first blocks of each stage have it
    (None: all). ``nonlocal_blocks``: after which blocks of res4 (counted from 0) the Slow pathway has
    a non-local block. ``head_pool``: side of the head's pooling window on the last feature map
    (training crop / 32); a larger map is classified at every position and the probabilities averaged.
    """

    type: Literal["slowfast"] = "slowfast"
    stage_blocks: Ints4 = (3, 4, 6, 3)
    width: PositiveInt = 64
    alpha: PositiveInt = 8
    beta_inv: PositiveInt = 8
    fusion_ratio: PositiveInt = 2
    fusion_kernel: PositiveInt = 5
    temporal_kernels_slow: Ints4 = (1, 1, 3, 3)
    temporal_kernels_fast: Ints4 = (3, 3, 3, 3)
    temporal_blocks: Ints4 | None = None
    nonlocal_blocks: Ints = ()
    head_pool: PositiveInt = 7
    dropout: Probability = 0.5

    @model_validator(mode="after")
    def _channels_divide(self) -> Self:
        if self.width % self.beta_inv:
            raise ValueError(f"width {self.width} is not a multiple of beta_inv {self.beta_inv}")
        outside = [block for block in self.nonlocal_blocks if not 0 <= block < self.stage_blocks[2]]
        if outside:
            raise ValueError(
                f"nonlocal_blocks {outside[0]} is not one of the {self.stage_blocks[2]} res4 blocks"
            )
        return self


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


class TrainConfig(Section):
    """The schedule and what one step is.

    A step is one global batch. Batch-norm statistics are taken over groups of ``bn_group`` clips,
    however many clips a worker holds. The learning rate warms up linearly from ``warmup_lr`` (at
    ``optim.reference_batch``) over ``warmup_epochs`` and follows a half-period cosine to ``epochs``.
    """

    epochs: PositiveInt = 196
    global_batch: PositiveInt = 1024
    bn_group: PositiveInt = 8
    warmup_epochs: NonNegativeFloat = 34.0
    warmup_lr: NonNegativeFloat = 0.01
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
        return self


ModelConfig = SlowFastConfig
OptimConfig = Annotated[SgdConfig | AdamConfig, Field(discriminator="type")]


class Experiment(Section):
    """One training run, whole. Two runs with equal experiments and manifests are the same science."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "experiment"
    seed: Annotated[int, Field(ge=0)] = 0
    data: DataConfig = DataConfig()
    model: ModelConfig = SlowFastConfig()
    optim: OptimConfig = SgdConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _frames_divide(self) -> Self:
        if self.data.frames % self.model.alpha:
            raise ValueError(
                f"data.frames {self.data.frames} is not a multiple of model.alpha {self.model.alpha}"
            )
        return self
