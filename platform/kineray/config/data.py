"""The section ``data`` of an experiment: which clips are read, and how they are cut from videos."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import (
    AreaRange,
    Balance,
    Floats,
    FramesPerSecond,
    Modality,
    NamesOrNone,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PositiveRange,
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
    """Raise ValueError unless the crops fit into the scaled frames. All sizes are in pixels."""
    low, high = short_side
    if low > high:
        raise ValueError(f"short_side must be low,high; got {low},{high}")
    if crop > low:
        raise ValueError(f"crop {crop} is larger than the smallest short_side {low}")
    if eval_crop > eval_short_side:
        raise ValueError(f"eval_crop {eval_crop} is larger than eval_short_side {eval_short_side}")


def check_normalisation(modality: Modality, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Raise ValueError unless there are a mean and a positive std for each channel of ``modality``: red,
    green, blue, u and v."""
    rgb, flow = clip_parts(modality, 1)
    if not len(mean) == len(std) == rgb + flow:
        channels = {3: "red, green and blue", 2: "u and v", 5: "red, green, blue, u and v"}[rgb + flow]
        example = {
            3: "",
            2: ": set data.mean=0.5,0.5 data.std=0.226,0.226 (as in TSN)",
            5: ": set data.mean=0.45,0.45,0.45,0.5,0.5 data.std=0.225,0.225,0.225,0.226,0.226",
        }[rgb + flow]
        raise ValueError(
            f"mean and std have {len(mean)} and {len(std)} values; modality {modality} needs {rgb + flow} of"
            f" each, for {channels}{example}"
        )
    if min(std) <= 0:
        raise ValueError("std must be positive")


def clip_parts(modality: Modality, stack: int) -> tuple[int, int]:
    """Number of RGB channels of a clip, which come first, and of flow channels: u and v for each of the
    ``stack`` frames of flow that are read at a timestamp."""
    return {
        "rgb": (3, 0),
        "flow": (0, 2),
        "flow_stack": (0, 2 * stack),
        "rgb_flow": (3, 2),
        "rgb_flow_stack": (3, 2 * stack),
    }[modality]


class ClipSection(Section):
    """How a clip is cut from a video.

    ``sampling``: which ``frames`` frames of a sample a clip has (``kineray.data.clips.samplers``). dense:
    ``stride / fps`` seconds apart (32 x 2 at 30 fps spans 2.1 s); uniform: spread over the whole sample;
    segments: one at a random timestamp in each of ``frames`` equal parts (TSN); sequences: one of the
    consecutive sequences of ``frames`` frames, ``stride / fps`` seconds apart, of which the sample consists.

    ``modality``: rgb; flow, the u and v of optical flow; flow_stack, the u and v of ``stack`` consecutive
    flow frames at each timestamp (TSN); rgb_flow and rgb_flow_stack, RGB followed by flow with the same
    timestamps, crop and mirroring (two-stream networks). ``flow_bound``: the motion in pixels to which 8-bit
    flow is rescaled, so that folders that were stored with different bounds can be used together; none: as
    stored. ``mean`` and ``std``: of pixel values from 0 to 1, for each of the channels red, green, blue, u
    and v that the modality has.

    ``short_side``: range in pixels of the random short side to which frames are scaled in training;
    ``crop``: side of the square that is then cut out. ``crop_area``: none, or the range of the share of a
    frame that training clips show, as for Inception: a random part, whose width / height is in the range
    ``crop_aspect``, is scaled to ``crop``, and ``short_side`` does not count. ``eval_short_side`` and
    ``eval_crop``: the fixed short side and square of evaluation.
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
    crop_area: AreaRange | None = None
    crop_aspect: PositiveRange = (3 / 4, 4 / 3)
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
        """Number of channels of a clip, and so of the input of the model."""
        return sum(clip_parts(self.modality, self.stack))


class DataConfig(ClipSection):
    """Which clips are read, and how a clip is cut from a video (``ClipSection``).

    ``manifest``: the manifest of the data set, a file or its folder, local or on S3. ``heads``: which heads
    of the manifest are trained; none: all. ``augment``: augmentations of training clips
    (``data.augment.color_jitter.brightness=0.4``). ``balance``: how often a class is seen in training; none:
    as often as it occurs; sqrt: in proportion to the square root of that; class: all classes equally often.
    ``balance_head``: the head whose classes are balanced, if several are trained. ``clips_per_sample``: clips
    of a sample in an epoch (repeated augmentation, arXiv 1901.09335). ``drawn_views``: number of random clips
    of a sample that epochs take in turns; none: each clip is drawn anew; 0: the clip of evaluation, without
    anything random. ``sequences``: which sequences of a sample an epoch goes through with
    ``sampling=sequences``: ``one`` at random, or ``all``, in an order that mixes those of all samples.
    ``error_budget``: fraction of the clips that may fail to decode, and be replaced, before training stops.
    """

    manifest: str = ""
    heads: NamesOrNone = ()
    augment: Pieces[ClipAugmentation] = Pieces()
    balance: Balance = "none"
    balance_head: str = ""
    clips_per_sample: PositiveInt = 1
    drawn_views: NonNegativeInt | None = None
    sequences: Sequences = "one"
    error_budget: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        repeated = [name for name in self.heads if self.heads.count(name) > 1]
        if repeated:
            raise ValueError(f"heads names {repeated[0]} twice")
        if self.epoch_of_sequences and self.modality.endswith("stack"):
            raise ValueError(f"sequences=all needs a modality without stacks, not modality={self.modality}")
        if self.drawn_views == 0 and (self.augment or self.crop != self.eval_crop):
            problem = f"crop={self.crop} to be eval_crop={self.eval_crop}"
            raise ValueError(f"drawn_views=0 needs {'no augment' if self.augment else problem}")
        return self

    @property
    def epoch_of_sequences(self) -> bool:
        """Whether an epoch goes through all sequences of every sample."""
        return self.sampling == "sequences" and self.sequences == "all"
