"""From a video to the pixels that a model sees, as one value that is stored with the model."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias, TypedDict

import numpy as np
from pydantic import Field, ValidationError

from kineray.config import DataConfig, Pieces
from kineray.config.augment.base import ClipAugmentation
from kineray.config.data import ClipSection, clip_parts
from kineray.data.clips.augment import augment_clip
from kineray.data.clips.geometry import Geometry, fixed_geometries, random_geometry, resized_geometry
from kineray.data.clips.samplers import eval_times, stack_times, train_times
from kineray.errors import ConfigError
from kineray.video import (
    FlowFolder,
    Frame,
    PacketIndex,
    Reader,
    Source,
    VideoInfo,
    open_video,
)

if TYPE_CHECKING:
    import torch

Allocate: TypeAlias = Callable[[tuple[int, ...]], np.ndarray]
"""Returns a uint8 array of a shape, into which clips are written, such as one in shared memory."""

_ADDED = {"crop_area", "crop_aspect"}
"""Fields that older files do not have: their defaults are what was done before there was a choice."""


class _ClipArguments(TypedDict):
    frames: int
    stride: int
    fps: float
    source_fps: float
    stack: int


class Spanned(Protocol):
    """A span of a video in seconds, such as a Sample; ``end_s`` None: to the end of the video."""

    @property
    def start_s(self) -> float: ...

    @property
    def end_s(self) -> float | None: ...


class Located(Protocol):
    """URIs of a video and of its optical flow, such as a Sample; ``flow`` "": there is none."""

    @property
    def uri(self) -> str: ...

    @property
    def flow(self) -> str: ...


class Preprocessing(ClipSection):
    """How clips are sampled, scaled, cropped and normalised, and what the labels mean.

    ``labels``: the class names of every trained head by index. Training, evaluation, prediction and serving
    all use this value and no other code. Clips have ``channels`` C: 3 for RGB; u and v for flow;
    u1, v1, u2, v2, ... for stacked flow; for RGB with flow, the channels of RGB and then those of flow.

    ``augment`` changes training clips only and is not stored with a model: evaluation and serving never use
    it.
    """

    labels: dict[str, tuple[str, ...]]
    augment: Pieces[ClipAugmentation] = Field(default=Pieces(), exclude=True)

    @classmethod
    def from_config(cls, data: DataConfig, vocabularies: Mapping[str, tuple[str, ...]]) -> Self:
        """The preprocessing that the ``data`` section of an experiment describes, for a manifest's classes.

        Raises ConfigError if ``data.heads`` names a head that the manifest does not have.
        """
        fields = {name: getattr(data, name) for name in ClipSection.model_fields}
        heads = trained_heads(data, vocabularies)
        return cls(**fields, labels={head: vocabularies[head] for head in heads}, augment=data.augment)

    def to_json(self) -> str:
        """This value as JSON, which ``from_json`` reads back unchanged."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what ``to_json`` wrote. Raises ConfigError, also if a field is missing."""
        try:
            value = cls.model_validate_json(text)
            stored = [name for name, field in cls.model_fields.items() if not field.exclude]
            known = value.model_fields_set | _ADDED
            missing = next((name for name in stored if name not in known), None)
        except ValidationError as error:
            first = error.errors()[0]
            missing = str(first["loc"][0]) if first["type"] == "missing" else None
            if missing is None:
                key = ".".join(["preprocessing", *map(str, first["loc"])])
                problem = first["msg"].removeprefix("Value error, ").lower()
                raise ConfigError(problem, code="bad_value", key=key) from None
        if missing is not None:
            # A default may not be what the model was trained with.
            raise ConfigError("field required", code="not_set", key=f"preprocessing.{missing}")
        return value

    def sources(self, sample: Located) -> tuple[str, str | None]:
        """URIs from which clips of a sample are read: of a video or flow, and of the flow beside the video
        if clips have both."""
        rgb_channels, flow_channels = clip_parts(self.modality, self.stack)
        if not rgb_channels:
            return sample.flow or sample.uri, None  # a data set may consist of flow only
        return sample.uri, (sample.flow or None) if flow_channels else None

    def train_geometry(self, height: int, width: int, rng: np.random.Generator) -> Geometry:
        """A random geometry for a training clip of a video with frames of ``height`` x ``width`` pixels."""
        side, flip = self.crop, self.flip
        if self.crop_area is None:
            return random_geometry(height, width, short_side=self.short_side, side=side, flip=flip, rng=rng)
        area, aspect = self.crop_area, self.crop_aspect
        return resized_geometry(height, width, area=area, aspect=aspect, side=side, flip=flip, rng=rng)

    def eval_geometries(self, height: int, width: int, crops: int) -> list[Geometry]:
        """The geometries of the ``crops`` (1 or 3) of each view of a video. Raises ConfigError."""
        if crops not in (1, 3):
            raise ConfigError("must be 1 or 3", code="out_of_range", key="crops", value=crops)
        return fixed_geometries(
            height, width, short_side=self.eval_short_side, side=self.eval_crop, crops=crops
        )

    def train_clips(
        self,
        source: Source,
        sample: Spanned,
        rngs: Sequence[np.random.Generator],
        *,
        flow: Source | None = None,
        index: PacketIndex | None = None,
        allocate: Allocate | None = None,
    ) -> np.ndarray:
        """Random clips of ``sample``, one for each of ``rngs``, in one decoding pass.

        Returns uint8 [N, T, crop, crop, C]. For each clip the timestamps are drawn
        (``samplers.train_times``), then the geometry (``train_geometry``), and finally ``augment``
        is applied, all with the same random stream. The crop is cut out of the frame before it is scaled, at
        the nearest whole pixels.

        ``source`` and ``flow``: as ``sources`` names them. With both, timestamps and geometry are drawn for
        ``source``, and flow shows the same timestamps and the same part of the frame. ``index``: of the video
        file, if it is known. ``allocate``: makes the array to write into. Raises DecodeError, and ConfigError
        for a source of another modality or missing flow.
        """
        size = (self.crop, self.crop)
        with self._opened(source, flow, index) as parts:
            info = parts[0].info  # of ``source``, which flow follows
            span_s = _span(info, sample.start_s, sample.end_s)
            times_nt = np.empty((len(rngs), self.frames))
            geometries: list[Geometry] = []
            for times_t, rng in zip(times_nt, rngs, strict=True):
                times_t[:] = train_times(self.sampling, *span_s, **self._clip_of(parts), rng=rng)
                geometries.append(self.train_geometry(info.height, info.width, rng))
            clips_nthwc = (allocate or _empty)((*times_nt.shape, *size, self.channels))
            for part in parts:
                boxes = [one.source_box(part.info.height, part.info.width) for one in geometries]
                for places, frame in part.frames_at(times_nt, span_s):
                    for clip, of_clip in groupby(places, key=itemgetter(0)):
                        pixels_hwc = frame.pixels(box=boxes[clip], size=size, mirror=geometries[clip].mirror)
                        pixels_hwc = self._rescaled(part.video, pixels_hwc)
                        for _, t, channels in of_clip:
                            clips_nthwc[clip, t, :, :, channels] = pixels_hwc
        for clip_thwc, rng in zip(clips_nthwc, rngs, strict=True):
            augment_clip(self.augment, clip_thwc, clip_parts(self.modality, self.stack)[0], rng)
        return clips_nthwc

    def eval_views(
        self,
        source: Source | Reader,
        start_s: float = 0.0,
        end_s: float | None = None,
        views: int = 1,
        crops: int = 1,
        *,
        flow: Source | None = None,
        index: PacketIndex | None = None,
        allocate: Allocate | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fixed clips of a span, in one decoding pass.

        Returns uint8 [V * crops, T, eval_crop, eval_crop, C], in which the crops of a view follow each other,
        and the timestamps in seconds, float64 [V, T], from ``samplers.eval_times``. V is ``views``; with
        sequences fewer if the span has fewer. One crop is in the centre; three are at the start, centre and
        end of the long side. ``flow``, ``index``, ``allocate`` and errors: as in ``train_clips``.
        """
        side = self.eval_crop
        with self._opened(source, flow, index) as parts:
            info = parts[0].info
            span_s = _span(info, start_s, end_s)
            times_vt = eval_times(self.sampling, *span_s, **self._clip_of(parts), views=views)
            geometries = self.eval_geometries(info.height, info.width, crops)
            size = geometries[0].scaled
            shape = (len(times_vt) * crops, self.frames, side, side, self.channels)
            clips_nthwc = (allocate or _empty)(shape)
            for part in parts:
                for places, frame in part.frames_at(times_vt, span_s):
                    # Scaled as a whole, then cut: a crop has the same pixels whatever other crops there are.
                    pixels_hwc = self._rescaled(part.video, frame.pixels(size=size))
                    for view, t, channels in places:
                        for crop, geometry in enumerate(geometries):
                            cut_hwc = geometry.cut(pixels_hwc)
                            clips_nthwc[view * crops + crop, t, :, :, channels] = cut_hwc
        return clips_nthwc, times_vt

    def normalise(self, clips_bthwc: "torch.Tensor") -> "torch.Tensor":
        """uint8 [B, T, H, W, C] -> float32 [B, C, T, H, W], (x / 255 - mean) / std, on the same device.

        On a CPU the channels of a pixel stay side by side in memory, which makes networks faster there
        (``benchmarks/models.py``).
        """
        import torch

        on_cpu = clips_bthwc.device.type == "cpu"
        layout = torch.channels_last_3d if on_cpu else torch.contiguous_format
        clips_bcthw = clips_bthwc.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=layout)
        rgb_channels, _ = clip_parts(self.modality, self.stack)
        # Plain numbers per channel: a tensor of them would be copied to the device at every step.
        for channel in range(clips_bcthw.shape[1]):
            # After red, green and blue, u and v take turns.
            value = channel if channel < rgb_channels else rgb_channels + (channel - rgb_channels) % 2
            mean, std = self.mean[value], self.std[value]
            clips_bcthw[:, channel].mul_(1 / (255 * std)).sub_(mean / std)
        return clips_bcthw

    @contextmanager
    def _opened(
        self, source: Source | Reader, flow: Source | None, index: PacketIndex | None
    ) -> Iterator[list["_Part"]]:
        """The parts of a clip, that of ``source`` first. Raises ConfigError for another modality."""
        rgb, of_flow = clip_parts(self.modality, self.stack)
        with ExitStack() as opened:
            readers = [opened.enter_context(open_video(source, index=index))]
            if rgb and of_flow and flow is not None:
                readers.append(opened.enter_context(open_video(flow)))
            needed = ["RGB frames"] * bool(rgb) + ["optical flow"] * bool(of_flow)
            for reader, needs in zip(readers, needed, strict=False):
                holds = "optical flow" if reader.info.channels == 2 else "RGB frames"
                if holds != needs:
                    raise ConfigError(
                        f"contains {holds}, but data.modality={self.modality} needs {needs}",
                        code="wrong_modality",
                        key=reader.name,
                    )
            if len(readers) < len(needed):
                raise ConfigError(
                    f"has no optical flow beside it, which data.modality={self.modality} needs",
                    code="no_flow",
                    key=readers[0].name,
                    remedy="compute it for the videos of a manifest with 'kineray data flow'",
                )
            parts = [_Part(readers[0], 0, 1)] if rgb else []
            if of_flow:
                parts.append(_Part(readers[-1], rgb, of_flow // 2))
            yield parts

    def _clip_of(self, parts: Sequence["_Part"]) -> "_ClipArguments":
        """Arguments of ``train_times`` and ``eval_times``; stacks leave room for their frames of flow."""
        last = parts[-1]
        return {
            "frames": self.frames,
            "stride": self.stride,
            "fps": self.fps,
            "source_fps": (last if last.stack > 1 else parts[0]).info.fps,
            "stack": last.stack,
        }

    def _rescaled(self, video: Reader, pixels_hwc: np.ndarray) -> np.ndarray:
        """Flow with the bound ``flow_bound``, whatever bound it was stored with; RGB unchanged."""
        if self.flow_bound is None or not isinstance(video, FlowFolder) or video.bound == self.flow_bound:
            return pixels_hwc
        rescaled_hwc: np.ndarray = _grey_values(video.bound / self.flow_bound)[pixels_hwc]
        return rescaled_hwc


@dataclass(frozen=True)
class _Part:
    """The channels of a clip that are read from one video: those of ``stack`` frames, from ``first`` on."""

    video: Reader
    first: int
    stack: int

    @property
    def info(self) -> VideoInfo:
        """Size, frame rate and length of the video."""
        return self.video.info

    def frames_at(
        self, times_nt: np.ndarray, span_s: tuple[float, float]
    ) -> Iterator[tuple[list[tuple[int, int, slice]], Frame]]:
        """Every frame of clips with timestamps ``times_nt``, once, with the places that it fills.

        A place is (clip, frame of the clip, channels); the places of a clip follow each other. With stacked
        flow, the frames after each timestamp are read too.
        """
        size, shape = self.info.channels, (*times_nt.shape, self.stack)
        times_m = times_nt.ravel()
        if self.stack > 1:
            times_m = stack_times(times_m, self.stack, *span_s, self.info.fps).ravel()
        starts = range(self.first, self.first + self.stack * size, size)
        channels = [slice(start, start + size) for start in starts]
        for rows, frame in self.video.frames_at(times_m):
            indices = zip(*(axis.tolist() for axis in np.unravel_index(rows, shape)), strict=True)
            yield [(clip, t, channels[nth]) for clip, t, nth in indices], frame


def trained_heads(data: DataConfig, heads: Iterable[str]) -> tuple[str, ...]:
    """The heads of a manifest that are trained, in its order. Raises ConfigError for an unknown head."""
    known = tuple(heads)
    for head in data.heads:
        if head not in known:
            raise ConfigError(
                "the manifest has no such head",
                code="unknown_value",
                key="data.heads",
                value=head,
                remedy=f"its heads are {', '.join(known)}",
            )
    return tuple(head for head in known if not data.heads or head in data.heads)


def balance_of(data: DataConfig, heads: Sequence[str]) -> tuple[str, float] | None:
    """Head and power for ``balanced_order``, or None if classes are seen as often as they occur.

    ``heads``: the trained ones. Raises ConfigError if ``data.balance_head`` is not one of them, or is not set
    though there are several.
    """
    if data.balance == "none":
        return None
    if data.balance_head not in heads and (data.balance_head or len(heads) != 1):
        raise ConfigError(
            "not a trained head" if data.balance_head else f"not set, but data.balance is {data.balance}",
            code="unknown_value" if data.balance_head else "not_set",
            key="data.balance_head",
            value=data.balance_head or None,
            remedy=f"set it to one of {', '.join(heads)}",
        )
    return data.balance_head or heads[0], {"sqrt": 0.5, "class": 0.0}[data.balance]


def _span(info: VideoInfo, start_s: float, end_s: float | None) -> tuple[float, float]:
    end_s = info.duration_s if end_s is None else min(end_s, info.duration_s)
    return start_s, max(end_s, start_s)


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.empty(shape, np.uint8)


@cache
def _grey_values(ratio: float) -> np.ndarray:
    """A lookup table of the grey values of flow for a bound that is ``ratio`` times smaller: uint8 [256]."""
    return np.round(127.5 + (np.arange(256) - 127.5) * ratio).clip(0, 255).astype(np.uint8)
