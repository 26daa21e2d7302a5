"""What a batch is to be, as values: the loader's input."""

from dataclasses import dataclass
from typing import Self

from kineray.config import DataConfig
from kineray.data.clips.preprocessing import Preprocessing


@dataclass(frozen=True)
class ClipShape:
    """How many pixels a training clip has, and of what part of the video they are.

    ``frames`` of the clip, ``stride`` sampled frames from one to the next; ``crop``: the side in pixels of
    the square that is cut from the video once its short side is between the two of ``short_side``.
    """

    frames: int
    stride: int
    short_side: tuple[int, int]
    crop: int

    def __post_init__(self) -> None:
        low, high = self.short_side
        if min(self.frames, self.stride, self.crop) < 1 or not self.crop <= low <= high:
            raise ValueError(f"no clip can have the shape {self}")

    @classmethod
    def of(cls, data: DataConfig | Preprocessing) -> Self:
        """The shape that ``data.frames``, ``stride``, ``short_side`` and ``crop`` say."""
        return cls(data.frames, data.stride, data.short_side, data.crop)

    def applied_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """``preprocessing``, but for training clips of this shape."""
        if ClipShape.of(preprocessing) == self:
            return preprocessing
        changes = {
            "frames": self.frames,
            "stride": self.stride,
            "short_side": self.short_side,
            "crop": self.crop,
        }
        return preprocessing.model_copy(update=changes)


@dataclass(frozen=True)
class BatchSpec:
    """What one worker loads for one step.

    ``positions``: the places in the order of ``epoch`` of this worker's clips, where the clips of a sample
    follow each other if there are several; they are cut into parts of ``micro_batch``. ``step`` is a name
    for it, which its batches carry.
    """

    step: int
    epoch: int
    positions: range
    micro_batch: int
    clip: ClipShape

    def __post_init__(self) -> None:
        if self.positions.start < 0 or not self.positions or self.positions.step != 1 or self.micro_batch < 1:
            raise ValueError(f"no batch can have {self.positions} in parts of {self.micro_batch}")

    def parts(self) -> list[range]:
        """The positions of every micro-batch."""
        starts = self.positions[:: self.micro_batch]
        return [range(start, min(start + self.micro_batch, self.positions.stop)) for start in starts]
