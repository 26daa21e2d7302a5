"""The timestamps of the frames of a clip, as pure functions of a span of a video.

    dense      T frames, stride / fps seconds apart, somewhere in the span     (SlowFast, I3D, C3D)
    uniform    T frames at even distances over the whole span
    segments   one timestamp in each of T equal parts of the span              (TSN, arXiv 1608.00859)
    sequences  a frame every stride / fps seconds, cut into sequences of T

Times are seconds from the start of the video. A span reaches from ``start_s`` up to ``end_s``, where the
next one may begin: no timestamp is later than half a frame of the source before its end, so a clip never
shows the frame that is presented at ``end_s``. In a span that is shorter than a clip the last frame is
repeated; a span that is shorter than a frame shows the frame at ``start_s``.
"""

import math
from dataclasses import dataclass

import numpy as np

from kineray.config.fields import Sampling
from kineray.errors import ConfigError

_CENTRE = 0.5
_UNKNOWN_FRAME_S = 0.002  # duration of a frame if the frame rate of the source is not known
_ROUNDING = 1e-6  # of a step: errors of floats that are ignored when steps are counted


def train_times(
    sampling: Sampling,
    start_s: float,
    end_s: float,
    *,
    frames: int,
    stride: int,
    fps: float,
    source_fps: float,
    stack: int = 1,
    rng: np.random.Generator,
) -> np.ndarray:
    """Timestamps of a random clip of a span: float64 [T], rising.

    dense: uniform over all starts with which the clip fits. uniform: one random phase for all T equal
    parts, so that the distances stay even. segments: a random timestamp in each part, as in TSN. sequences:
    one of the sequences of the span. ``source_fps``: frame rate of the video, 0 if it is not known.
    ``stack``: number of frames of the video that are read from each timestamp on, for which the timestamps
    leave room. Raises ValueError for an impossible span or clip.
    """
    span = _Span(start_s, end_s, frames, stride / fps, source_fps, stack)
    match sampling:
        case "dense":
            return span.dense(rng.random())
        case "uniform":
            return span.spread(rng.random())
        case "segments":
            return span.spread(rng.random(frames))
        case "sequences":
            return span.sequence(int(rng.integers(span.sequences)))


def eval_times(
    sampling: Sampling,
    start_s: float,
    end_s: float,
    *,
    frames: int,
    stride: int,
    fps: float,
    source_fps: float,
    stack: int = 1,
    views: int,
) -> np.ndarray:
    """Timestamps of the fixed clips of a span: float64 [V, T]; V is ``views``, or fewer for sequences.

    dense: view i of n starts i / n of the way from the first to the last start that fits (the test protocol
    of PySlowFast), a single view in the middle. uniform and segments: view i of n is (i + 1/2) / n of the way
    into each of the T parts, a single view in their centres. sequences: ``views`` of the m sequences of the
    span, evenly spread, or all m if there are no more. Raises ConfigError for ``views`` below 1, and
    otherwise as ``train_times``.
    """
    if views < 1:
        raise ConfigError(
            f"{views} is less than 1", code="out_of_range", key="views", remedy="give `views` at least 1"
        )
    span = _Span(start_s, end_s, frames, stride / fps, source_fps, stack)
    match sampling:
        case "dense":
            times = [span.dense(view / views if views > 1 else _CENTRE) for view in range(views)]
        case "uniform" | "segments":
            times = [span.spread((view + _CENTRE) / views) for view in range(views)]
        case "sequences":
            of, taken = span.sequences, min(views, span.sequences)
            times = [span.sequence((2 * view + 1) * of // (2 * taken)) for view in range(taken)]
    return np.stack(times)


def sequence_spans(
    start_s: float, end_s: float, *, frames: int, stride: int, fps: float
) -> list[tuple[float, float]]:
    """(start, end) in seconds of every sequence of a span.

    A span that is shorter than a sequence is a sequence itself.
    """
    span = _Span(start_s, end_s, frames, stride / fps, source_fps=0)
    sequence_s = frames * span.step_s
    starts_s = [start_s + index * sequence_s for index in range(span.sequences)]
    return [(first_s, min(first_s + sequence_s, end_s)) for first_s in starts_s]


def stack_times(
    times_t: np.ndarray, stack: int, start_s: float, end_s: float, source_fps: float
) -> np.ndarray:
    """Every timestamp and those of the ``stack`` - 1 next frames of the video: float64 [T, stack]."""
    span = _Span(start_s, end_s, stack, 1.0, source_fps)
    return span.inside(times_t[:, None] + np.arange(stack) * span.frame_s)


@dataclass(frozen=True)
class _Span:
    """A span from which clips of ``frames`` timestamps, ``step_s`` apart, with ``stack`` frames at each, are
    cut."""

    start_s: float
    end_s: float
    frames: int
    step_s: float
    source_fps: float
    stack: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and self.start_s <= self.end_s < math.inf):
            raise ValueError(f"a span cannot reach from {self.start_s} to {self.end_s} s")
        if min(self.frames, self.stack) < 1 or not 0 < self.step_s < math.inf:
            raise ValueError(f"a clip cannot have {self.frames} frames that are {self.step_s} s apart")
        if not 0 <= self.source_fps < math.inf:
            raise ValueError(f"a frame rate cannot be {self.source_fps}")

    @property
    def frame_s(self) -> float:
        """How long a frame of the source is shown."""
        return 1 / self.source_fps if self.source_fps else _UNKNOWN_FRAME_S

    @property
    def length_s(self) -> float:
        """Length of the part of the span in which the first frames of stacks may be."""
        return max(self.end_s - self.start_s - (self.stack - 1) * self.frame_s, 0.0)

    @property
    def sequences(self) -> int:
        """Number of whole sequences in the span; 1 for a shorter span."""
        steps = math.ceil(self.length_s / self.step_s - _ROUNDING)
        return max(steps // self.frames, 1)

    def dense(self, fraction: float) -> np.ndarray:
        """The clip that starts ``fraction`` of the way from the first start that fits to the last."""
        latest_s = max(self.length_s - self.frames * self.step_s, 0.0)
        return self.inside(self.start_s + fraction * latest_s + np.arange(self.frames) * self.step_s)

    def spread(self, phases: float | np.ndarray) -> np.ndarray:
        """A timestamp in each of ``frames`` equal parts, at ``phases`` (0 to 1, one or [T]) of the part."""
        part_s = self.length_s / self.frames
        return self.inside(self.start_s + (np.arange(self.frames) + phases) * part_s)

    def sequence(self, index: int) -> np.ndarray:
        """Sequence ``index`` of those that follow each other from the start of the span, without overlap."""
        return self.inside(self.start_s + (index * self.frames + np.arange(self.frames)) * self.step_s)

    def inside(self, times_s: np.ndarray) -> np.ndarray:
        """``times_s``, with those that are too late moved to the middle of the last frame."""
        last_s = self.start_s + max(self.length_s - _CENTRE * self.frame_s, 0.0)
        inside_s: np.ndarray = times_s.clip(self.start_s, last_s)
        return inside_s
