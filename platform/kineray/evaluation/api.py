"""``kineray.predict``: a checkpoint and one video -> its classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kineray.errors import ConfigError
from kineray.evaluation.checkpoints import CheckpointLike, check_crops, open_checkpoint
from kineray.evaluation.predict import predict as predict_loaded
from kineray.options import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.video import FrameArray


@dataclass(frozen=True)
class Prediction:
    """What a checkpoint predicts for one video; the endpoint returns the same.

    ``predictions``: head -> the best classes, each ``{"label", "score"}``, the score averaged over views.
    ``model``: the experiment's name; ``version``: number in the registry, None for a checkpoint that is not
    from there. ``timestamps_s``: of the frames of each view, in seconds. ``timings_ms``: milliseconds spent
    on decoding and in the model.
    """

    predictions: Mapping[str, list[dict[str, Any]]]
    model: str
    version: int | None
    weights_sha256: str
    timestamps_s: list[list[float]]
    timings_ms: Mapping[str, float]


def predict(
    checkpoint: CheckpointLike,
    video: str | Path | BinaryIO | np.ndarray,
    *,
    fps: float | None = None,
    views: int = DEFAULT_VIEWS,
    crops: int = DEFAULT_CROPS,
    top_k: int = DEFAULT_TOP_K,
    storage: str | None = None,
    device: str | None = None,
) -> Prediction:
    """Classify one video, with the code that the endpoint runs.

    ``checkpoint``: a run's name in ``storage``, the folder or s3:// URI of a run or checkpoint, or a loaded
    checkpoint. ``video``: a path, an open binary file, or frames as an array, uint8 [T, H, W, 3] (RGB), of
    which ``fps`` were taken in a second. ``views``: clips along time, each cut ``crops`` times (1 or 3);
    ``top_k``: number of classes returned for each head. ``storage``: by default KINERAY_STORAGE or ./runs.
    ``device``: by default a GPU if there is one. Raises CheckpointError, DecodeError for a file that is not a
    readable video, and ConfigError for an array of another kind or if the model needs optical flow.
    ``predict_many`` takes several videos.
    """
    check_crops(crops)
    if isinstance(video, np.ndarray):
        file: str | Path | BinaryIO | FrameArray = _frames(video, fps)
    elif fps is not None:
        raise ConfigError(
            "given for a file, which has its own",
            code="not_an_array",
            key="fps",
            value=fps,
            remedy="leave `fps` out",
        )
    else:
        file = Path(video) if isinstance(video, str) else video
    loaded, device = open_checkpoint(checkpoint, storage=storage, device=device)
    answer = predict_loaded(loaded, file, views=views, crops=crops, top_k=top_k, device=device)
    return Prediction(**answer)


def _frames(frames_thwc: np.ndarray, fps: float | None) -> FrameArray:
    if fps is None or not 0 < fps < math.inf:
        raise ConfigError(
            "frames in an array need a number of frames per second above 0",
            code="not_set" if fps is None else "out_of_range",
            key="fps",
            value=fps,
            remedy="give the `fps` at which they were taken",
        )
    try:
        return FrameArray(frames_thwc, fps)
    except ValueError as error:
        raise ConfigError(
            str(error), code="wrong_shape", key="video", remedy="give RGB frames, 0 to 255"
        ) from None
