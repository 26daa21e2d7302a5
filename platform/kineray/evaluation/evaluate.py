"""A checkpoint's scores on a split of a manifest, with the protocol of the measurement."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kineray.data import Failure, Manifest
from kineray.data.manifest.checks import check_flow, check_task
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ManifestError
from kineray.evaluation.predict import classify
from kineray.evaluation.table import about, predictions_table

if TYPE_CHECKING:
    import pyarrow as pa

    from kineray.tasks import Task
    from kineray.training import Checkpoint


@dataclass(frozen=True)
class Evaluation:
    """Scores and what they were measured on.

    ``metrics``: those of the checkpoint's task, as ``<head>/top1``. ``per_class``: head -> class name ->
    ``class_score`` (``top1`` accuracy, or ``average_precision`` if a video can have several classes), 0 to 1,
    for the classes that occur. ``classes``: head -> the checkpoint's class names by index. ``predictions``: a
    row for each video, as ``evaluation.table`` describes it. ``step``: of the checkpoint. ``file``: where the
    predictions were written. Two evaluations can be compared only if their ``protocol`` is the same.
    """

    protocol: dict[str, Any]
    metrics: dict[str, float]
    class_score: str
    per_class: dict[str, dict[str, float]]
    classes: dict[str, list[str]]
    predictions: "pa.Table"
    failures: tuple[Failure, ...]
    step: int
    file: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """The metadata of the file: protocol, metrics, classes, checkpoint and the hash of its weights."""
        return about(self.predictions)

    def to_json(self) -> dict[str, Any]:
        """Everything but the predictions themselves, which are in ``file``."""
        return {
            "checkpoint": self.about["checkpoint"],
            "weights_sha256": self.about["weights_sha256"],
            "protocol": self.protocol,
            "metrics": self.metrics,
            "class_score": self.class_score,
            "per_class": self.per_class,
            "classes": self.classes,
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
    protocol: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Classify every video of ``split`` and score it, by the task of the checkpoint.

    ``views`` clips along time, each cut ``crops`` times (1 or 3) along the long side; the probabilities are
    averaged over all of them (or what ``aggregation`` in the protocol says). A video that cannot be decoded
    counts as wrong. Labels are joined by class name. ``decoders``: number of decoding processes;
    ``indexes``: cached frame indexes of the manifest's videos. ``protocol``: the result of ``protocol_of``
    for these arguments, if it is known. ``checkpoint`` must be loaded onto ``device``;
    ``progress(done, total)`` is called after every video. Raises ManifestError if the split is empty, its
    classes are not the checkpoint's, or it lacks the optical flow that the checkpoint needs; ConfigError if
    its labels are of another kind of task.
    """
    preprocessing = checkpoint.preprocessing
    samples = manifest.split(split)
    check_flow(samples, preprocessing.modality)
    check_task(samples, preprocessing.labels.keys() & samples.vocabularies.keys())
    task = checkpoint.task
    labels = _join_labels(samples, task)
    scores, failures = classify(
        checkpoint,
        samples,
        views=views,
        crops=crops,
        device=device,
        decoders=decoders,
        indexes=indexes,
        progress=progress,
    )
    metrics = task.measure(scores, labels)
    per_class = {head: _per_class(task, head, scores[head], labels[head]) for head in task.classes}
    protocol = protocol or protocol_of(checkpoint, manifest, split, views=views, crops=crops)
    classes = {head: list(names) for head, names in preprocessing.labels.items()}
    described = {
        "protocol": protocol,
        "metrics": metrics,
        "classes": classes,
        "checkpoint": checkpoint.uri,
        "weights_sha256": checkpoint.weights_sha256,
    }
    return Evaluation(
        protocol=protocol,
        metrics=metrics,
        class_score=task.class_score,
        per_class=per_class,
        classes=classes,
        predictions=predictions_table(samples, task, scores, failures, described, labels=labels),
        failures=tuple(failures.values()),
        step=checkpoint.state["step"],
    )


def protocol_of(
    checkpoint: "Checkpoint", manifest: Manifest, split: str, *, views: int, crops: int
) -> dict[str, Any]:
    """How a checkpoint is scored on a split: scores can be compared only if all of this is the same.

    ``absent``: how clips count that are listed but not in the manifest; ``undecodable``: how those count
    whose video cannot be decoded; ``precision``: of the model's arithmetic (a validation during training
    may be in bfloat16). Raises ManifestError if the split is empty.
    """
    preprocessing = checkpoint.preprocessing
    samples = manifest.split(split)
    return {
        "dataset": manifest.name,
        "manifest_hash": manifest.content_hash,
        "split": split,
        "views": views,
        "crops": crops,
        **checkpoint.task.protocol,
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


def _join_labels(samples: Manifest, task: "Task") -> dict[str, np.ndarray]:
    """The samples' labels as arrays of the task, joined to the checkpoint's classes by name."""
    indices = {head: _index_in(names, samples, head) for head, names in task.classes.items()}
    joined = [
        replace(sample, labels={head: _translated(sample.labels[head], to) for head, to in indices.items()})
        for sample in samples
    ]
    labels = {head: targets.numpy() for head, targets in task.targets(joined).items()}
    for head, of_head in labels.items():
        if not task.is_known(of_head).any():
            raise ManifestError(
                f"no clip of the split has a label for '{head}'",
                code="no_labels",
                key=samples.name,
                remedy="evaluate another split or manifest",
            )
    return labels


def _index_in(names: Sequence[str], samples: Manifest, head: str) -> list[int]:
    """For each class of the manifest its index among ``names``."""
    if head not in samples.vocabularies:
        raise ManifestError(
            f"has no labels for the head '{head}' of the checkpoint",
            code="unknown_value",
            key=samples.name,
            remedy=f"its heads are {', '.join(samples.vocabularies)}",
        )
    vocabulary = samples.vocabularies[head]
    index_of = {name: index for index, name in enumerate(names)}
    unknown = [name for name in vocabulary if name not in index_of]
    if unknown:
        raise ManifestError(
            f"the checkpoint's head '{head}' has no class '{unknown[0]}' ({len(unknown)} of "
            f"{len(vocabulary)} classes are unknown)",
            code="unknown_value",
            key=samples.name,
            remedy="evaluate on the data set that it was trained for",
        )
    return [index_of[name] for name in vocabulary]


def _translated(label: Any, to: Sequence[int]) -> Any:
    """A sample's label, one class or several, with the indices of the checkpoint."""
    if isinstance(label, int):
        return to[label] if label >= 0 else label
    return None if label is None else tuple(to[index] for index in label)


def _per_class(task: "Task", head: str, scores_nc: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    known = task.is_known(labels)
    values = task.per_class_metric(scores_nc[known], labels[known])
    named = zip(task.classes[head], values.tolist(), strict=True)
    return {name: value for name, value in named if not np.isnan(value)}
