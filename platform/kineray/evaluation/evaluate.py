"""A checkpoint's accuracy on a split of a manifest, with the protocol that it was measured by."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kineray import storage
from kineray.data import Failure, Manifest, eval_clips
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import check_flow
from kineray.data.manifest.samples import ABSENT
from kineray.errors import ManifestError
from kineray.evaluation.metrics import mean_class_accuracy, per_class_accuracy, top_k_accuracy
from kineray.evaluation.predict import video_probabilities, view_probabilities

if TYPE_CHECKING:
    from kineray.training import Checkpoint

METADATA_KEY = b"kineray.evaluation"
_CLIPS_TOGETHER = 8  # clips of different videos that share one forward pass


@dataclass(frozen=True)
class Evaluation:
    """Accuracies and what they were measured on.

    ``metrics``: ``<head>/top1``, ``/top5`` and ``/mean_class``, 0..1. ``per_class``: head -> class
    name -> top-1 accuracy, for the classes that occur. ``predictions``: one row per video: ``id``,
    ``uri``, ``error`` (null, or why it could not be decoded), and for each head ``<head>/label``
    (index in the checkpoint's classes, -1 unknown) and ``<head>/probabilities`` (null with an error).
    ``file``: where the predictions were written. Two evaluations can be compared only if their
    ``protocol`` is the same.
    """

    protocol: dict[str, Any]
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    predictions: pa.Table
    failures: tuple[Failure, ...]
    file: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What the file says of itself: protocol, metrics, classes, checkpoint and its weights' hash."""
        about: dict[str, Any] = json.loads(self.predictions.schema.metadata[METADATA_KEY])
        return about

    def to_json(self) -> dict[str, Any]:
        """Everything but the predictions themselves, which are in ``file``."""
        return {
            "checkpoint": self.about["checkpoint"],
            "weights_sha256": self.about["weights_sha256"],
            "protocol": self.protocol,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "predictions": self.file,
            "failures": [
                {"id": failure.id, "uri": failure.uri, "code": failure.code} for failure in self.failures
            ],
        }


def evaluate(
    checkpoint: "Checkpoint",
    manifest: Manifest,
    split: str = "val",
    *,
    views: int,
    crops: int,
    device: str = "cpu",
    decoders: int = 1,
    indexes: IndexCache | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Classify every video of ``split`` and score it.

    ``views`` clips along time, each cut ``crops`` times (1 or 3) along the long side; the softmax is
    averaged over all of them. A video that cannot be decoded counts as wrong. Labels are joined by
    class name. ``decoders`` processes decode; ``indexes``: of the manifest's videos, if they are known.
    ``checkpoint`` was loaded onto ``device``; ``progress(done, total)`` is called after
    every video. Raises ManifestError when the split is empty, its classes are not the checkpoint's, or it
    lacks the optical flow that the checkpoint needs.
    """
    preprocessing = checkpoint.preprocessing
    samples = manifest.split(split)
    check_flow(samples, preprocessing.modality)
    labels = _join_labels(samples, preprocessing.labels)
    probabilities, failures = _classify(
        checkpoint, samples, views, crops, device, decoders, indexes, progress
    )
    metrics: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for head, names in preprocessing.labels.items():
        known = labels[head] != ABSENT
        scores_known, labels_known = probabilities[head][known], labels[head][known]
        metrics[f"{head}/top1"] = top_k_accuracy(scores_known, labels_known, 1)
        metrics[f"{head}/top5"] = top_k_accuracy(scores_known, labels_known, 5)
        metrics[f"{head}/mean_class"] = mean_class_accuracy(scores_known, labels_known)
        accuracies = per_class_accuracy(scores_known, labels_known)
        per_class[head] = {
            name: float(value) for name, value in zip(names, accuracies, strict=True) if not np.isnan(value)
        }
    protocol = protocol_of(checkpoint, manifest, split, views=views, crops=crops)
    about = {
        "protocol": protocol,
        "metrics": metrics,
        "classes": {head: list(names) for head, names in preprocessing.labels.items()},
        "checkpoint": checkpoint.uri,
        "weights_sha256": checkpoint.weights_sha256,
    }
    table = _table(samples, labels, probabilities, failures)
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    return Evaluation(protocol, metrics, per_class, table, tuple(failures.values()))


def protocol_of(
    checkpoint: "Checkpoint", manifest: Manifest, split: str, *, views: int, crops: int
) -> dict[str, Any]:
    """How a checkpoint is scored on a split: scores can be compared only where all of this is the same.

    ``absent``: what becomes of clips that are listed and not in the manifest; ``undecodable``: of those
    whose video cannot be decoded; ``precision``: of the model's arithmetic (a validation during training
    may be in bfloat16). Raises ManifestError where the split is empty.
    """
    preprocessing = checkpoint.preprocessing
    samples = manifest.split(split)
    return {
        "dataset": manifest.name,
        "manifest_hash": manifest.content_hash,
        "split": split,
        "views": views,
        "crops": crops,
        "aggregation": "mean of softmax",
        "modality": preprocessing.modality,
        "sampling": preprocessing.sampling,
        "frames": preprocessing.frames,
        "stride": preprocessing.stride,
        "fps": preprocessing.fps,
        "eval_short_side": preprocessing.eval_short_side,
        "eval_crop": preprocessing.eval_crop,
        "precision": "float32",
        "absent": "not scored",
        "undecodable": "wrong",
        "listed": samples.listed[split],
        "found": len(samples),
    }


def save_predictions(evaluation: Evaluation, path: str) -> None:
    """Write the predictions as Parquet, locally or to S3.

    The schema metadata ``kineray.evaluation`` is JSON: protocol, metrics, class names and the
    checkpoint. Raises StorageError.
    """
    buffer = io.BytesIO()
    pq.write_table(evaluation.predictions, buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())


def _join_labels(samples: Manifest, classes: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Head -> int64 [N]: each sample's label as an index into the checkpoint's classes, or -1."""
    joined = {}
    for head, names in classes.items():
        if head not in samples.vocabularies:
            raise ManifestError(
                f"{samples.name}: has no labels for the head '{head}' of the checkpoint; it has "
                f"{', '.join(samples.vocabularies)}"
            )
        vocabulary = samples.vocabularies[head]
        index_of = {name: index for index, name in enumerate(names)}
        unknown = [name for name in vocabulary if name not in index_of]
        if unknown:
            raise ManifestError(
                f"{samples.name}: the checkpoint's head '{head}' knows no class '{unknown[0]}' "
                f"({len(unknown)} of {len(vocabulary)} classes are unknown); evaluate on the data set "
                "that it was trained for"
            )
        to_checkpoint = np.array([*(index_of[name] for name in vocabulary), ABSENT])
        joined[head] = to_checkpoint[samples.labels(head)]
        if (joined[head] == ABSENT).all():
            raise ManifestError(f"{samples.name}: no clip of the split has a label for '{head}'")
    return joined


def _classify(
    checkpoint: "Checkpoint",
    samples: Manifest,
    views: int,
    crops: int,
    device: str,
    decoders: int,
    indexes: IndexCache | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, np.ndarray], dict[str, Failure]]:
    """Head -> probabilities float64 [N, classes] (NaN where a video cannot be decoded); failures by id."""
    preprocessing = checkpoint.preprocessing
    probabilities = {
        head: np.full((len(samples), len(names)), np.nan) for head, names in preprocessing.labels.items()
    }
    failures: dict[str, Failure] = {}
    loaded = eval_clips(
        samples,
        preprocessing,
        views=views,
        crops=crops,
        indices=range(len(samples)),
        decoders=decoders,
        indexes=indexes,
    )
    waiting: list[tuple[int, np.ndarray]] = []
    for index, (sample, clips, _, failure) in enumerate(loaded):
        if failure is not None:
            failures[sample.id] = failure
        if clips is not None:
            waiting.append((index, clips))
        if len(waiting) * views * crops >= _CLIPS_TOGETHER or index == len(samples) - 1:
            for row, scores in _forward(checkpoint, waiting, device):
                for head, of_classes in scores.items():
                    probabilities[head][row] = of_classes
            waiting = []
        if progress is not None:
            progress(index + 1, len(samples))
    return probabilities, failures


def _forward(
    checkpoint: "Checkpoint", videos: list[tuple[int, np.ndarray]], device: str
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(row, its head -> probabilities float64 [classes]) of videos whose clips share forward passes."""
    if not videos:
        return
    clips = np.concatenate([clips for _, clips in videos])
    of_views = view_probabilities(checkpoint.model, checkpoint.preprocessing, clips, device)
    start = 0
    for row, own in videos:
        stop = start + len(own)
        yield row, video_probabilities({head: scores[start:stop] for head, scores in of_views.items()})
        start = stop


def _table(
    samples: Manifest,
    labels: Mapping[str, np.ndarray],
    probabilities: Mapping[str, np.ndarray],
    failures: Mapping[str, Failure],
) -> pa.Table:
    errors = [f"{f.code}: {f.message}" if (f := failures.get(s.id)) else None for s in samples]
    columns: dict[str, pa.Array] = {
        "id": pa.array([sample.id for sample in samples], pa.string()),
        "uri": pa.array([sample.uri for sample in samples], pa.string()),
        "error": pa.array(errors, pa.string()),
    }
    for head, scores in probabilities.items():
        rows = [None if np.isnan(row).any() else row.astype(np.float32) for row in scores]
        columns[f"{head}/label"] = pa.array(labels[head], pa.int32())
        columns[f"{head}/probabilities"] = pa.array(rows, pa.list_(pa.float32()))
    return pa.table(columns)
