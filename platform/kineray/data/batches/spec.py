"""Which clips a batch contains, as values: the input of the loader."""

from dataclasses import dataclass
from typing import Self

from kineray.config import DataConfig
from kineray.data.clips.preprocessing import Preprocessing


@dataclass(frozen=True)
class ClipShape:
    """The size of a training clip and of the part of the video that it shows.

    ``frames``: number of frames; ``stride``: steps of 1 / fps seconds from one frame to the next;
    ``short_side``: minimum and maximum in pixels to which the short side of the video is scaled; ``crop``:
    side in pixels of the square that is then cut out.
    """

    frames: int
    stride: int
    short_side: tuple[int, int]
    crop: int

    def __post_init__(self) -> None:
        low, high = self.short_side
        if min(self.frames, self.stride, self.crop) < 1 or not self.crop <= low <= high:
            raise ValueError(f"impossible {self}")

    @property
    def pixels(self) -> int:
        """Number of pixels of a clip."""
        return self.frames * self.crop**2

    @classmethod
    def of(cls, data: DataConfig | Preprocessing) -> Self:
        """The shape that ``frames``, ``stride``, ``short_side`` and ``crop`` of ``data`` give."""
        return cls(data.frames, data.stride, data.short_side, data.crop)

    def applied_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """``preprocessing`` with training clips of this shape."""
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

    ``step``: the number that its batches carry. ``positions``: of this worker's clips in the order of
    ``epoch``, in which several clips of a sample follow each other. ``micro_batch``: number of clips of a
    micro-batch; the last one may be smaller. ``clip``: the shape of the clips.
    """

    step: int
    epoch: int
    positions: range
    micro_batch: int
    clip: ClipShape

    def __post_init__(self) -> None:
        if self.positions.start < 0 or not self.positions or self.positions.step != 1 or self.micro_batch < 1:
            raise ValueError(f"impossible batch: {self.positions} in micro-batches of {self.micro_batch}")

    def parts(self) -> list[range]:
        """The positions of every micro-batch."""
        starts = self.positions[:: self.micro_batch]
        return [range(start, min(start + self.micro_batch, self.positions.stop)) for start in starts]


@dataclass(frozen=True)
class Failure:
    """A clip that could not be decoded; ``code`` is DecodeError's, or ``storage``."""

    id: str
    uri: str
    code: str
    message: str
