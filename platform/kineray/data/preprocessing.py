"""From a video to the pixels a model sees, as one value that is stored with the model."""

import math
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kineray.config import DataConfig
from kineray.config.schema import Floats3, FramesPerSecond, PositiveInt, SideRange, check_picture_sizes
from kineray.data.manifest import Sample
from kineray.errors import ConfigError
from kineray.video import Video, open_video
from kineray.video.decode import Source


class Preprocessing(BaseModel):
    """How clips are sampled, scaled, cropped and normalised, and what the labels mean.

    The fields are those of ``DataConfig``; ``labels`` holds the class names of every head by index.
    Training, evaluation, prediction and serving all use this value and no other code.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: PositiveInt
    stride: PositiveInt
    fps: FramesPerSecond
    short_side: SideRange
    crop: PositiveInt
    flip: bool
    eval_short_side: PositiveInt
    eval_crop: PositiveInt
    mean: Floats3
    std: Floats3
    labels: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        check_picture_sizes(self.short_side, self.crop, self.eval_short_side, self.eval_crop, self.std)
        return self

    @classmethod
    def from_config(cls, data: DataConfig, vocabularies: Mapping[str, tuple[str, ...]]) -> Self:
        """The preprocessing that an experiment's ``data`` section describes, for a manifest's classes."""
        fields = {name: getattr(data, name) for name in cls.model_fields if name != "labels"}
        return cls(**fields, labels=dict(vocabularies))

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
    def clip_span_s(self) -> float:
        """Seconds of video that a clip stands for."""
        return self.frames * self.stride / self.fps

    def train_clip(self, path: Source, sample: Sample, rng: np.random.Generator) -> np.ndarray:
        """A random clip of ``sample``: uint8 [T, crop, crop, 3].

        The start is uniform over the starts that fit the sample's span; then a random short side, a
        random crop and, if ``flip``, a mirror image half of the time (as for SlowFast on Kinetics,
        arXiv 1812.03982, appendix A). Raises DecodeError.
        """
        with open_video(path) as video:
            start_s, end_s = _span(video, sample.start_s, sample.end_s)
            latest_s = max(end_s - start_s - self.clip_span_s, 0.0)
            times_s = self._times(start_s + rng.random() * latest_s, end_s)
            short_side = int(rng.integers(self.short_side[0], self.short_side[1], endpoint=True))
            frames_thwc = video.read(times_s, short_side=short_side)
        top = int(rng.integers(0, frames_thwc.shape[1] - self.crop, endpoint=True))
        left = int(rng.integers(0, frames_thwc.shape[2] - self.crop, endpoint=True))
        mirror = rng.random() < 0.5
        clip_thwc = frames_thwc[:, top : top + self.crop, left : left + self.crop]
        if self.flip and mirror:
            clip_thwc = clip_thwc[:, :, ::-1]
        return np.ascontiguousarray(clip_thwc)

    def eval_views(
        self,
        path: Source,
        start_s: float = 0.0,
        end_s: float | None = None,
        views: int = 1,
        crops: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fixed clips of a span, in one decoding pass.

        Returns uint8 [views * crops, T, eval_crop, eval_crop, 3], the crops of a view side by side, and
        the timestamps in seconds, float64 [views, T]. View i of n starts at i / n of the starts that fit
        the span (PySlowFast's test protocol); a single view lies in the middle. One crop is the centre;
        three lie at the start, centre and end of the long side. Raises DecodeError.
        """
        if views < 1:
            raise ConfigError(f"views: {views} must be at least 1")
        if crops not in (1, 3):
            raise ConfigError(f"crops: {crops} must be 1 or 3")
        with open_video(path) as video:
            start_s, end_s = _span(video, start_s, end_s)
            latest_s = max(end_s - start_s - self.clip_span_s, 0.0)
            parts = [view / views for view in range(views)] if views > 1 else [0.5]
            times_vt = np.stack([self._times(start_s + latest_s * part, end_s) for part in parts])
            frames_nhwc = video.read(times_vt.ravel(), short_side=self.eval_short_side)
        frames_vthwc = frames_nhwc.reshape(views, self.frames, *frames_nhwc.shape[1:])
        cut = [_crop_at(frames_vthwc, self.eval_crop, place) for place in ((1,) if crops == 1 else (0, 1, 2))]
        clips_vcthwc = np.stack(cut, axis=1)
        return clips_vcthwc.reshape(views * crops, *clips_vcthwc.shape[2:]), times_vt

    def normalise(self, clips_bthwc: torch.Tensor) -> torch.Tensor:
        """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W], (x / 255 - mean) / std, on the same device."""
        clips_bcthw = clips_bthwc.permute(0, 4, 1, 2, 3).to(
            torch.float32, memory_format=torch.contiguous_format
        )
        # Plain numbers per channel: a tensor of them would be copied to the device at every step.
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            clips_bcthw[:, channel].mul_(1 / (255 * std)).sub_(mean / std)
        return clips_bcthw

    def _times(self, first_s: float, end_s: float) -> np.ndarray:
        """Timestamps of the clip that starts at ``first_s``; those past the end repeat the last frame."""
        times_s: np.ndarray = first_s + np.arange(self.frames) * (self.stride / self.fps)
        return times_s.clip(max=end_s)


def _span(video: Video, start_s: float, end_s: float | None) -> tuple[float, float]:
    duration_s = video.info.duration_s
    end_s = duration_s if end_s is None else min(end_s, duration_s)
    return start_s, max(end_s, start_s)


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
