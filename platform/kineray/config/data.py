"""Which clips are read, and how a clip is cut from a video."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import (
    Balance,
    Floats,
    FramesPerSecond,
    Modality,
    NamesOrNone,
    PositiveFloat,
    PositiveInt,
    Sampling,
    Section,
    Sequences,
    SideRange,
)
from kineray.config.variants import Pieces


def check_frame_sizes(
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
    """Channels of RGB in a clip, which come first, and of flow: u and v of each of its flow frames."""
    return {
        "rgb": (3, 0),
        "flow": (0, 2),
        "flow_stack": (0, 2 * stack),
        "rgb_flow": (3, 2),
        "rgb_flow_stack": (3, 2 * stack),
    }[modality]


class ClipSection(Section):
    """How a clip is cut from a video.

    ``sampling`` is where the ``frames`` frames of a clip lie (``kineray.data.clips.samplers``): dense,
    ``stride / fps`` seconds apart (32 x 2 at 30 fps spans 2.1 s); uniform, spread over the whole segment;
    segments, one random timestamp in each of ``frames`` parts (TSN); sequences, one of the parts of
    ``frames`` frames that a segment falls into at ``stride / fps``.

    ``modality``: rgb; flow, the u and v of optical flow; flow_stack, at each timestamp the u and v of
    ``stack`` consecutive flow frames (TSN); rgb_flow and rgb_flow_stack, RGB and after it flow, of the
    same timestamps, crop and mirror image (two-stream networks). ``flow_bound``: the pixels of motion that
    8-bit flow is rescaled to, so that folders that were stored with different bounds can be used together;
    none leaves it as stored. ``mean`` and ``std``: of values from 0 to 1, for those of red, green, blue, u
    and v that the modality has.

    ``short_side`` is the range of the random resize in training, ``crop`` the square that is cut
    from it; ``eval_short_side`` and ``eval_crop`` are their fixed counterparts in evaluation.
    """

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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_frame_sizes(self.short_side, self.crop, self.eval_short_side, self.eval_crop)
        check_normalisation(self.modality, self.mean, self.std)
        return self

    @property
    def channels(self) -> int:
        """Channels of a clip, and so of what the model takes."""
        return sum(clip_parts(self.modality, self.stack))


class DataConfig(ClipSection):
    """Which clips are read, and how a clip is cut from a video (``ClipSection``).

    ``heads``: which of the manifest's heads are trained; none named, all are. ``augment``: what changes the
    pixels of training clips (``data.augment.color_jitter.brightness=0.4``). ``balance``: how often a class is
    seen in training; none, as often as it occurs; sqrt, in proportion to the square root of that; class, all
    alike. ``balance_head`` says whose classes, where there are several heads. ``sequences``: how many of the
    sequences of a sample an epoch goes through with ``sampling=sequences``: ``one``, drawn at random, or
    ``all`` of them, in an order that mixes those of all samples.
    """

    manifest: str = ""
    heads: NamesOrNone = ()
    augment: Pieces[ClipAugmentation] = Pieces()
    balance: Balance = "none"
    balance_head: str = ""
    clips_per_sample: PositiveInt = 1
    sequences: Sequences = "one"
    error_budget: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        repeated = [name for name in self.heads if self.heads.count(name) > 1]
        if repeated:
            raise ValueError(f"heads names {repeated[0]} twice")
        if self.sequences == "all" and (self.sampling != "sequences" or self.modality.endswith("stack")):
            raise ValueError(
                f"sequences all needs sampling sequences and frames that are not stacked, not sampling "
                f"{self.sampling} and modality {self.modality}"
            )
        return self
