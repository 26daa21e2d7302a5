"""The typed experiment: every number that decides the result of a run.

Values are frozen; unknown keys are refused. The dotted path of a field (``optim.lr``) is its name
everywhere: on the command line, in YAML, in Ray Tune, in MLflow and in reports.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from kineray.config.fields import (
    Balance,
    Floats,
    FramesPerSecond,
    Modality,
    Names,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Probability,
    Sampling,
    Section,
    SideRange,
)
from kineray.config.models import ModelConfig, SlowFastConfig


def check_picture_sizes(
    short_side: tuple[int, int],
    crop: int,
    eval_short_side: int,
    eval_crop: int,
) -> None:
    """Raise ValueError unless every crop fits the scaled video."""
    low, high = short_side
    if low > high:
        raise ValueError(f"short_side must be low,high; got {low},{high}")
    if crop > low:
        raise ValueError(f"crop {crop} is larger than the smallest short_side {low}")
    if eval_crop > eval_short_side:
        raise ValueError(f"eval_crop {eval_crop} is larger than eval_short_side {eval_short_side}")


def check_normalisation(modality: Modality, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ValueError unless there is a mean and a positive std for each of red, green, blue, u and v
    that ``modality`` has."""
    rgb, flow = clip_parts(modality, 1)
    if not len(mean) == len(std) == rgb + flow:
        what = {3: "red, green and blue", 2: "u and v", 5: "red, green, blue, u and v"}[rgb + flow]
        usual = {
            3: "",
            2: ": set data.mean=0.5,0.5 data.std=0.226,0.226 (as in TSN)",
            5: ": set data.mean=0.45,0.45,0.45,0.5,0.5 data.std=0.225,0.225,0.225,0.226,0.226",
        }[rgb + flow]
        raise ValueError(
            f"mean and std have {len(mean)} and {len(std)} values; modality {modality} needs {rgb + flow} of"
            f" each, for {what}{usual}"
        )
    if min(std) <= 0:
        raise ValueError("std must be positive")


def clip_parts(modality: Modality, stack: int) -> tuple[int, int]:
    """Channels of RGB in a clip, which come first, and of flow: u and v of each of its frames at a moment."""
    return {
        "rgb": (3, 0),
        "flow": (0, 2),
        "flow_stack": (0, 2 * stack),
        "rgb_flow": (3, 2),
        "rgb_flow_stack": (3, 2 * stack),
    }[modality]


class DataConfig(Section):
    """Which clips are read, and how a clip is cut from a video.

    ``sampling`` is where the ``frames`` frames of a clip lie (``kineray.data.clips.samplers``): dense,
    ``stride / fps`` seconds apart (32 x 2 at 30 fps spans 2.1 s); uniform, spread over the whole segment;
    segments,
    one random moment in each of ``frames`` parts (TSN); sequences, one of the parts of ``frames`` frames
    that a segment falls into at ``stride / fps``.

    ``modality``: rgb; flow, the u and v of optical flow; flow_stack, at each moment the u and v of
    ``stack`` consecutive flow frames (TSN); rgb_flow and rgb_flow_stack, RGB and after it flow, of the
    same moments, crop and mirror image (two-stream networks). ``flow_bound``: the pixels of motion that
    8-bit flow is rescaled to, so that folders that were stored with different bounds can be used together;
    none leaves it as stored. ``mean`` and ``std``: of values from 0 to 1, for those of red, green, blue, u
    and v that the modality has.

    ``short_side`` is the range of the random resize in training, ``crop`` the square that is cut
    from it; ``eval_short_side`` and ``eval_crop`` are their fixed counterparts in evaluation.

    ``heads``: which of the manifest's heads are trained; none named, all are. ``balance``: how often a
    class is seen in training; none, as often as it occurs; sqrt, in proportion to the square root of
    that; class, all alike. ``balance_head`` says whose classes, where there are several heads.
    """

    manifest: str = ""
    heads: Names = ()
    modality: Modality = "rgb"
    sampling: Sampling = "dense"
    frames: PositiveInt = 32
    stride: PositiveInt = 2
    fps: FramesPerSecond = 30.0
    stack: PositiveInt = 5
    flow_bound: PositiveFloat | None = None
    short_side: SideRange = (256, 320)
    crop: PositiveInt = 224
    flip: bool = True
    eval_short_side: PositiveInt = 256
    eval_crop: PositiveInt = 256
    mean: Floats = (0.45, 0.45, 0.45)
    std: Floats = (0.225, 0.225, 0.225)
    balance: Balance = "none"
    balance_head: str = ""
    clips_per_sample: PositiveInt = 1
    error_budget: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_picture_sizes(self.short_side, self.crop, self.eval_short_side, self.eval_crop)
        check_normalisation(self.modality, self.mean, self.std)
        repeated = [name for name in self.heads if self.heads.count(name) > 1]
        if repeated:
            raise ValueError(f"heads names {repeated[0]} twice")
        return self

    @property
    def channels(self) -> int:
        """Channels of a clip."""
        return sum(clip_parts(self.modality, self.stack))


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
