"""Predicting videos: the one path that the command line, evaluation and the endpoint share."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch

from kineray.data import Failure, eval_clips
from kineray.options import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.video import FrameArray

if TYPE_CHECKING:
    from kineray.data import Manifest, Preprocessing, Sample
    from kineray.data.manifest.index_cache import IndexCache
    from kineray.training import Checkpoint


_CLIPS_AT_ONCE = 8  # clips in one forward pass: bounds the memory of a request with many views
_CLIPS_TOGETHER = 8  # clips of different videos that share one forward pass


def decode_views(
    file: str | Path | BinaryIO | FrameArray, preprocessing: "Preprocessing", *, views: int, crops: int
) -> tuple[np.ndarray, np.ndarray]:
    """The clips of a whole video: uint8 [views * crops, T, S, S, C], timestamps_s float64 [views, T].

    ``file``: a path, an open binary file, or frames. Raises DecodeError, and ConfigError for a modality that
    a single file cannot hold.
    """
    from kineray.data.clips.decoding import eval_file

    return eval_file(file, preprocessing, views, crops)


def view_scores(checkpoint: "Checkpoint", clips_vthwc: np.ndarray, device: str) -> dict[str, np.ndarray]:
    """Scores of every clip, the probabilities of the checkpoint's task: head -> float32 [V, classes].

    ``clips_vthwc`` is uint8 [V, T, H, W, C]; the checkpoint was loaded onto ``device``. Clips go through the
    model a few at a time.
    """
    parts: dict[str, list[np.ndarray]] = {}
    with torch.inference_mode():
        for start in range(0, len(clips_vthwc), _CLIPS_AT_ONCE):
            clips = torch.from_numpy(np.array(clips_vthwc[start : start + _CLIPS_AT_ONCE])).to(device)
            for head, logits_vk in checkpoint.model(checkpoint.preprocessing.normalise(clips)).items():
                parts.setdefault(head, []).append(checkpoint.task.probabilities(logits_vk).cpu().numpy())
    return {head: np.concatenate(chunks) for head, chunks in parts.items()}


def answer(
    checkpoint: "Checkpoint",
    of_views: Mapping[str, np.ndarray],
    timestamps_s: np.ndarray,
    *,
    top_k: int,
    model: str,
    version: int | None,
    timings_ms: Mapping[str, float],
) -> dict[str, Any]:
    """A prediction as users get it, ready for JSON. ``of_views``: the ``view_scores`` of one video.

    ``predictions``: head -> the ``top_k`` best classes, ``{"label", "score"}``, the score being the
    probability averaged over views (``Task.aggregate``). ``timestamps_s``: of the frames of each view.
    ``version`` is None for a checkpoint that is not in the registry.
    """
    task = checkpoint.task
    predictions = {
        head: task.present(task.aggregate(scores_vc), task.classes[head], top_k)
        for head, scores_vc in of_views.items()
    }
    return {
        "predictions": predictions,
        "model": model,
        "version": version,
        "weights_sha256": checkpoint.weights_sha256,
        "timestamps_s": [[round(float(time_s), 6) for time_s in view] for view in timestamps_s],
        "timings_ms": {name: round(value, 3) for name, value in timings_ms.items()},
    }


def predict(
    checkpoint: "Checkpoint",
    file: str | Path | BinaryIO | FrameArray,
    *,
    views: int = DEFAULT_VIEWS,
    crops: int = DEFAULT_CROPS,
    top_k: int = DEFAULT_TOP_K,
    device: str = "cpu",
) -> dict[str, Any]:
    """Classify one video with a checkpoint that was loaded onto ``device``; see ``answer``.

    Raises DecodeError for a file that is not a readable video, and ConfigError if the model needs optical
    flow.
    """
    started = time.perf_counter()
    clips, timestamps_s = decode_views(file, checkpoint.preprocessing, views=views, crops=crops)
    decoded = time.perf_counter()
    of_views = view_scores(checkpoint, clips, device)
    return answer(
        checkpoint,
        of_views,
        timestamps_s,
        top_k=top_k,
        model=checkpoint.experiment.name,
        version=None,
        timings_ms={
            "decode": (decoded - started) * 1e3,
            "model": (time.perf_counter() - decoded) * 1e3,
        },
    )


def classify(
    checkpoint: "Checkpoint",
    samples: "Manifest | Sequence[Sample]",
    *,
    views: int,
    crops: int,
    device: str,
    decoders: int,
    indexes: "IndexCache | None" = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, Failure]]:
    """The scores of many videos, which are decoded in ``decoders`` child processes.

    Returns head -> float64 [N, classes], the probabilities of each video over its views as the task
    aggregates them, NaN where it cannot be decoded; and the failures by the sample's id.
    ``progress(done, all)`` is called after every video.
    """
    total = len(samples)
    scores = {head: np.full((total, len(names)), np.nan) for head, names in checkpoint.task.classes.items()}
    failures: dict[str, Failure] = {}
    loaded = eval_clips(
        samples,
        checkpoint.preprocessing,
        views=views,
        crops=crops,
        indices=range(total),
        decoders=decoders,
        indexes=indexes,
    )
    waiting: list[tuple[int, np.ndarray]] = []
    for index, (sample, clips, _, failure) in enumerate(loaded):
        if failure is not None:
            failures[sample.id] = failure
        if clips is not None:
            waiting.append((index, clips))
        if len(waiting) * views * crops >= _CLIPS_TOGETHER or index == total - 1:
            for row, of_video in _forward(checkpoint, waiting, device):
                for head, scores_c in of_video.items():
                    scores[head][row] = scores_c
            waiting = []
        if progress is not None:
            progress(index + 1, total)
    return scores, failures


def _forward(
    checkpoint: "Checkpoint", videos: list[tuple[int, np.ndarray]], device: str
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(row, {head: scores float64 [classes]}) of videos whose clips share forward passes."""
    if not videos:
        return
    of_views = view_scores(checkpoint, np.concatenate([clips for _, clips in videos]), device)
    start = 0
    for row, clips in videos:
        stop = start + len(clips)
        yield row, {head: checkpoint.task.aggregate(scores[start:stop]) for head, scores in of_views.items()}
        start = stop
