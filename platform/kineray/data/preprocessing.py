"""From a video to the pixels a model sees, as one value that is stored with the model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kineray.config import DataConfig
from kineray.config.schema import (
    Floats,
    FramesPerSecond,
    Modality,
    PositiveFloat,
    PositiveInt,
    Sampling,
    SideRange,
    check_normalisation,
    check_picture_sizes,
    clip_channels,
)
from kineray.data.samplers import eval_times, stack_times, train_times
from kineray.errors import ConfigError
from kineray.video import Box, PacketIndex, Source, VideoInfo, open_video, scaled_size
from kineray.video.frames import FlowFolder, Reader

if TYPE_CHECKING:
    import torch

Allocate: TypeAlias = Callable[[tuple[int, ...]], np.ndarray]
"""Gives the uint8 array of a shape into which a clip is written, such as one in shared memory."""


class _ClipArguments(TypedDict):
    frames: int
    stride: int
    fps: float
    source_fps: float
    stack: int


class Spanned(Protocol):
    """A span of a video in seconds, as a Sample has it; ``end_s`` None: to the end."""

    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float | None: ...


class Preprocessing(BaseModel):
    """How clips are sampled, scaled, cropped and normalised, and what the labels mean.

    The fields are those of ``DataConfig``; ``labels`` holds the class names of every trained head by index.
    Training, evaluation, prediction and serving all use this value and no other code. Clips have
    ``channels`` C: 3 for RGB; 2 for flow, u and v; u1, v1, u2, v2, ... for stacked flow.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Modality = "rgb"
    sampling: Sampling = "dense"
    frames: PositiveInt
    stride: PositiveInt
    fps: FramesPerSecond
    stack: PositiveInt = 5
    flow_bound: PositiveFloat | None = None
    short_side: SideRange
    crop: PositiveInt
    flip: bool
    eval_short_side: PositiveInt
    eval_crop: PositiveInt
    mean: Floats
    std: Floats
    labels: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_picture_sizes(self.short_side, self.crop, self.eval_short_side, self.eval_crop)
        check_normalisation(self.modality, self.mean, self.std)
        return self

    @classmethod
    def from_config(cls, data: DataConfig, vocabularies: Mapping[str, tuple[str, ...]]) -> Self:
        """The preprocessing that an experiment's ``data`` section describes, for a manifest's classes.

        Raises ConfigError where ``data.heads`` names a head that the manifest does not have.
        """
        fields = {name: getattr(data, name) for name in cls.model_fields if name != "labels"}
        heads = trained_heads(data, vocabularies)
        return cls(**fields, labels={head: vocabularies[head] for head in heads})

    def to_json(self) -> str:
        """The value as JSON; ``from_json`` reads it back unchanged."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what ``to_json`` wrote. Raises ConfigError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the document"
            reason = first["msg"].removeprefix("Value error, ").lower()
            raise ConfigError(f"preprocessing: {where}: {reason}") from None

    @property
    def channels(self) -> int:
        """Channels of a clip, and so of what the model takes."""
        return clip_channels(self.modality, self.stack)

    @property
    def clip_span_s(self) -> float:
        """Seconds of video that a clip stands for where its frames lie ``stride / fps`` seconds apart."""
        return self.frames * self.stride / self.fps

    def train_clip(
        self,
        source: Source,
        sample: Spanned,
        rng: np.random.Generator,
        *,
        index: PacketIndex | None = None,
        allocate: Allocate | None = None,
    ) -> np.ndarray:
        """A random clip of ``sample``: uint8 [T, crop, crop, C].

        The moments are drawn (``samplers.train_times``); then a short side, a crop of the frame at that
        size and, if ``flip``, a mirror image half of the time (as for SlowFast on Kinetics, arXiv
        1812.03982, appendix A). The crop is cut out of the frame before it is scaled, at the nearest whole
        pixels of the source. ``index``: of the video file, if it is known. ``allocate`` gives the array to
        write into. Raises DecodeError, or ConfigError for a source of the other modality.
        """
        with open_video(source, index=index) as video:
            info = self._checked(video)
            span_s = _span(info, sample.start_s, sample.end_s)
            times_t = train_times(self.sampling, *span_s, **self._clip_of(info), rng=rng)
            short_side = int(rng.integers(self.short_side[0], self.short_side[1], endpoint=True))
            height, width = scaled_size(info.height, info.width, short_side)
            top = int(rng.integers(0, height - self.crop, endpoint=True))
            left = int(rng.integers(0, width - self.crop, endpoint=True))
            mirror = rng.random() < 0.5
            out_thwc = (allocate or _empty)((self.frames, self.crop, self.crop, self.channels))
            box = crop_box(info, (height, width), (top, left), self.crop)
            self._read(video, span_s, times_t, out_thwc, box=box, mirror=self.flip and mirror)
        return out_thwc

    def eval_views(
        self,
        source: Source,
        start_s: float = 0.0,
        end_s: float | None = None,
        views: int = 1,
        crops: int = 1,
        *,
        index: PacketIndex | None = None,
        allocate: Allocate | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fixed clips of a span, in one decoding pass.

        Returns uint8 [V * crops, T, eval_crop, eval_crop, C], the crops of a view side by side, and the
        timestamps in seconds, float64 [V, T]. V is ``views``; with sequences fewer where the span holds
        fewer. ``samplers.eval_times`` says where the views lie. One crop is the centre; three lie at the
        start, centre and end of the long side. ``index`` and ``allocate`` as in ``train_clip``. Raises
        DecodeError, or ConfigError for a source of the other modality.
        """
        if crops not in (1, 3):
            raise ConfigError(f"crops: {crops} must be 1 or 3")
        with open_video(source, index=index) as video:
            info = self._checked(video)
            span_s = _span(info, start_s, end_s)
            times_vt = eval_times(self.sampling, *span_s, **self._clip_of(info), views=views)
            height, width = scaled_size(info.height, info.width, self.eval_short_side)
            # Whole frames, then cut: every crop has the same pixels whichever others are wanted with it.
            frames_nhwc = np.empty((times_vt.size, height, width, self.channels), np.uint8)
            self._read(video, span_s, times_vt.ravel(), frames_nhwc)
        frames_vthwc = frames_nhwc.reshape(*times_vt.shape, *frames_nhwc.shape[1:])
        places = (1,) if crops == 1 else (0, 1, 2)
        shape = (len(times_vt) * crops, self.frames, self.eval_crop, self.eval_crop, self.channels)
        clips_nthwc = (allocate or _empty)(shape)
        for crop, place in enumerate(places):
            clips_nthwc[crop::crops] = _crop_at(frames_vthwc, self.eval_crop, place)
        return clips_nthwc, times_vt

    def normalise(self, clips_bthwc: "torch.Tensor") -> "torch.Tensor":
        """uint8 [B, T, H, W, C] -> float32 [B, C, T, H, W], (x / 255 - mean) / std, on the same device."""
        import torch

        clips_bcthw = clips_bthwc.permute(0, 4, 1, 2, 3).to(
            torch.float32, memory_format=torch.contiguous_format
        )
        # Plain numbers per channel: a tensor of them would be copied to the device at every step.
        for channel in range(clips_bcthw.shape[1]):
            mean, std = self.mean[channel % len(self.mean)], self.std[channel % len(self.std)]
            clips_bcthw[:, channel].mul_(1 / (255 * std)).sub_(mean / std)
        return clips_bcthw

    def _checked(self, video: Reader) -> VideoInfo:
        """What the source says of itself. Raises ConfigError unless it holds what the model takes."""
        info = video.info
        if (info.channels == 2) != (self.modality != "rgb"):
            holds, needs = ("optical flow", "rgb") if info.channels == 2 else ("RGB frames", self.modality)
            raise ConfigError(f"{video.name}: holds {holds}, but data.modality is {needs}")
        return info

    def _clip_of(self, info: VideoInfo) -> "_ClipArguments":
        stack = self.stack if self.modality == "flow_stack" else 1
        return {
            "frames": self.frames,
            "stride": self.stride,
            "fps": self.fps,
            "source_fps": info.fps,
            "stack": stack,
        }

    def _read(
        self,
        video: Reader,
        span_s: tuple[float, float],
        times_n: np.ndarray,
        out_nhwc: np.ndarray,
        *,
        box: Box | None = None,
        mirror: bool = False,
    ) -> None:
        """Fill ``out_nhwc`` with the frames at ``times_n``; with stacked flow, and those that follow each."""
        size = out_nhwc.shape[1], out_nhwc.shape[2]
        if self.modality == "flow_stack":
            times_ns = stack_times(times_n, self.stack, *span_s, video.info.fps)
            flow_mhwc = video.read(times_ns.ravel(), box=box, size=size, mirror=mirror)
            flow_nshwc = flow_mhwc.reshape(*times_ns.shape, *flow_mhwc.shape[1:])
            out_nhwc[...] = np.moveaxis(flow_nshwc, 1, 3).reshape(out_nhwc.shape)
        else:
            video.read(times_n, box=box, size=size, mirror=mirror, out=out_nhwc)
        if self.flow_bound is not None and isinstance(video, FlowFolder) and video.bound != self.flow_bound:
            out_nhwc[...] = _rescaled(video.bound / self.flow_bound)[out_nhwc]


def trained_heads(data: DataConfig, heads: Iterable[str]) -> tuple[str, ...]:
    """The heads of a manifest that are trained, in its order. Raises ConfigError for one it has not."""
    known = tuple(heads)
    for head in data.heads:
        if head not in known:
            raise ConfigError(f"data.heads={head}: the manifest has no such head; it has {', '.join(known)}")
    return tuple(head for head in known if not data.heads or head in data.heads)


def balance_of(data: DataConfig, heads: Sequence[str]) -> tuple[str, float] | None:
    """Head and power for ``balanced_order``, or None where classes are seen as often as they occur.

    ``heads``: those that are trained. Raises ConfigError where ``data.balance_head`` is not one of them,
    or is left out though there are several.
    """
    if data.balance == "none":
        return None
    if data.balance_head not in heads and (data.balance_head or len(heads) != 1):
        what = f"={data.balance_head}: is not trained" if data.balance_head else ": is not set"
        raise ConfigError(
            f"data.balance_head{what}; data.balance={data.balance} needs one of {', '.join(heads)}"
        )
    return data.balance_head or heads[0], {"sqrt": 0.5, "class": 0.0}[data.balance]


def _span(info: VideoInfo, start_s: float, end_s: float | None) -> tuple[float, float]:
    end_s = info.duration_s if end_s is None else min(end_s, info.duration_s)
    return start_s, max(end_s, start_s)


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


def crop_box(info: VideoInfo, scaled: tuple[int, int], corner: tuple[int, int], side: int) -> Box:
    """The square of ``side`` at ``corner`` (top, left) of the scaled frame, in pixels of the source.

    Its edges are rounded to the nearest pixel; it has one pixel at least.
    """
    top, height = _pixels(info.height / scaled[0], corner[0], side)
    left, width = _pixels(info.width / scaled[1], corner[1], side)
    return left, top, width, height


def _pixels(scale: float, first: int, length: int) -> tuple[int, int]:
    """(first, length) of the source pixels under some pixels of a frame that is ``scale`` times smaller."""
    start, stop = round(first * scale), round((first + length) * scale)
    if start == stop:
        start, stop = math.floor(first * scale), math.floor(first * scale) + 1
    return start, stop - start


def _crop_at(frames_vthwc: np.ndarray, side: int, place: int) -> np.ndarray:
    """A square crop at the start, centre or end (0, 1, 2) of the long side; centred on the short one."""
    height, width = frames_vthwc.shape[2:4]
    top, left = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if place != 1:
        if height > width:
            top = 0 if place == 0 else height - side
        else:
            left = 0 if place == 0 else width - side
    return frames_vthwc[:, :, top : top + side, left : left + side]


@cache
def _rescaled(ratio: float) -> np.ndarray:
    """What each grey value of flow becomes when its bound shrinks by ``ratio``: uint8 [256]."""
    return np.round(127.5 + (np.arange(256) - 127.5) * ratio).clip(0, 255).astype(np.uint8)
