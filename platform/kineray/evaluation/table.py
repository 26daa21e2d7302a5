"""Predictions as a table, and as a Parquet file.

A row for each video: ``id``, ``uri``, ``error`` (null, or why it could not be decoded), and for each head

    <head>/predicted       name of the predicted class, null with an error
    <head>/probabilities   of all classes in their order, null with an error
    <head>/class           name of the true class, null if it is not known
    <head>/label           its index, -1 if it is not known

The last two are left out if nothing is known of the truth. If a video can have several classes,
``predicted``, ``class`` and ``label`` are lists, null if they are not known; ``predicted`` has the classes
with a probability of at least one half. The schema metadata ``kineray.evaluation`` are JSON: the names of all
classes, the checkpoint and the hash of its weights, and, of an evaluation, its protocol and metrics.
"""

import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kineray import storage
from kineray.errors import StorageError

if TYPE_CHECKING:
    from kineray.data import Failure, Manifest, Sample
    from kineray.data.manifest.labels import Label
    from kineray.tasks import Task

_KEY = b"kineray.evaluation"


def predictions_table(
    samples: Iterable["Sample"],
    task: "Task",
    scores: Mapping[str, np.ndarray],
    failures: Mapping[str, "Failure"],
    described: Mapping[str, Any],
    *,
    labels: Mapping[str, np.ndarray] | None = None,
) -> pa.Table:
    """The table of predictions.

    ``scores``: head -> float [N, classes], rows of NaN for videos that cannot be decoded; ``failures``: of
    those, by id. ``described``: the metadata, see ``about``. ``labels``: head -> the true labels, as the
    task's arrays.
    """
    videos = list(samples)
    errors = [failures.get(sample.id) for sample in videos]
    columns = {
        "id": _texts([sample.id for sample in videos]),
        "uri": _texts([sample.uri for sample in videos]),
        "error": _texts([None if error is None else f"{error.code}: {error.message}" for error in errors]),
    }
    for head, scores_nc in scores.items():
        names = task.classes[head]
        columns[f"{head}/predicted"] = _names(task.indices(task.decide(scores_nc)), names)
        columns[f"{head}/probabilities"] = _rows(scores_nc)
        if labels is not None:
            truth = task.indices(labels[head])
            columns[f"{head}/class"] = _names(truth, names)
            columns[f"{head}/label"] = _labels(truth)
    return pa.table(columns).replace_schema_metadata({_KEY: json.dumps(described).encode()})


def about(table: pa.Table) -> dict[str, Any]:
    """The metadata of a table of predictions: classes, checkpoint, protocol, metrics."""
    described: dict[str, Any] = json.loads(table.schema.metadata[_KEY])
    return described


def write_table(table: pa.Table, path: str) -> None:
    """Write predictions as Parquet, locally or to S3. Raises StorageError."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    storage.write_bytes(path, buffer.getvalue())


def file_name(
    kind: str, manifest: "Manifest", split: str, views: int, crops: int, weights_sha256: str
) -> str:
    """``predictions-ucf101-1a2b3c4d-val-10x3-9f8e7d6c.parquet``: data set, its content, protocol, weights."""
    return f"{kind}-{short_name(manifest)}-{split}-{views}x{crops}-{weights_sha256[:8]}.parquet"


def short_name(manifest: "Manifest") -> str:
    """``ucf101-1a2b3c4d``: the name of a data set and the hash of its content."""
    dataset = re.sub(r"[^A-Za-z0-9._]+", "-", manifest.name).strip("-")
    return f"{dataset}-{manifest.content_hash[:8]}"


def check_not_taken(target: str, described: Mapping[str, Any]) -> None:
    """Raise StorageError if ``target`` exists and is anything but predictions with all of ``described``."""
    if not storage.exists(target):
        return
    try:
        metadata = pq.read_schema(io.BytesIO(storage.read_bytes(target))).metadata or {}
        found = json.loads(metadata[_KEY])
        is_same = json.loads(json.dumps(described)).items() <= found.items()
        problem = "holds the predictions of another protocol or checkpoint"
    except (pa.ArrowInvalid, KeyError, ValueError):
        is_same, problem = False, "exists, and holds no predictions"
    if not is_same:
        raise StorageError(problem, code="file_taken", key=target, remedy="name another file with `out`")


# -- columns, made from buffers: ``pa.array`` imports pandas, which takes a second ---------------------


def _names(labels: Sequence["Label"], names: Sequence[str]) -> pa.Array:
    if not _are_lists(labels):
        return _texts([names[label] if isinstance(label, int) and label >= 0 else None for label in labels])
    flat = [names[index] for label in labels for index in label or ()]  # type: ignore[union-attr]
    return _lists(_texts(flat), labels)


def _labels(labels: Sequence["Label"]) -> pa.Array:
    if not _are_lists(labels):
        return _numbers(np.array(labels, np.int32), pa.int32())
    flat = [index for label in labels for index in label or ()]  # type: ignore[union-attr]
    return _lists(_numbers(np.array(flat, np.int32), pa.int32()), labels)


def _are_lists(labels: Sequence["Label"]) -> bool:
    return not all(isinstance(label, int) for label in labels)


def _rows(scores_nc: np.ndarray) -> pa.Array:
    """A list for each row, null for one of NaN."""
    known = ~np.isnan(scores_nc).any(axis=1)
    values = _numbers(np.ascontiguousarray(scores_nc[known], np.float32), pa.float32())
    return _lists(values, [range(scores_nc.shape[1]) if is_known else None for is_known in known])


def _texts(values: Sequence[str | None]) -> pa.Array:
    encoded = [None if value is None else value.encode() for value in values]
    buffers = [_present(encoded), _offsets(encoded), pa.py_buffer(b"".join(filter(None, encoded)))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _numbers(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.Array.from_buffers(kind, values.size, [None, pa.py_buffer(values)])


def _lists(values: pa.Array, parts: Sequence[Any]) -> pa.Array:
    """``values`` divided into lists as long as ``parts``; null where that is None."""
    kind = pa.list_(values.type)
    return pa.Array.from_buffers(kind, len(parts), [_present(parts), _offsets(parts)], children=[values])


def _present(parts: Sequence[Any]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array([part is not None for part in parts], bool), bitorder="little"))


def _offsets(parts: Sequence[Any]) -> pa.Buffer:
    return pa.py_buffer(np.cumsum([0, *(0 if part is None else len(part) for part in parts)], dtype=np.int32))
