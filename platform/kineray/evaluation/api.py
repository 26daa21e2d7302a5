"""``kineray.evaluate`` and ``kineray.predict``: names of a checkpoint and of data -> a result."""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from kineray import storage as store
from kineray.data import Manifest, load_manifest
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError, StorageError
from kineray.evaluation.checkpoints import CheckpointLike, open_checkpoint
from kineray.evaluation.evaluate import METADATA_KEY, Evaluation, protocol_of, save_predictions
from kineray.evaluation.evaluate import evaluate as evaluate_loaded
from kineray.evaluation.predict import DEFAULT_CROPS, DEFAULT_TOP_K, DEFAULT_VIEWS
from kineray.evaluation.predict import predict as predict_loaded
from kineray.training import Checkpoint

_CROPS = (1, 3)


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


def evaluate(
    checkpoint: CheckpointLike,
    *,
    manifest: str | Path | Manifest | None = None,
    split: str = "val",
    views: int = 10,
    crops: int = 3,
    out: str | None = None,
    storage: str | None = None,
    device: str | None = None,
    decoders: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a checkpoint on a split of a manifest and write its predictions for every video.

    ``checkpoint``: a run's name in ``storage``, the folder or s3:// URI of a run or checkpoint, or a loaded
    checkpoint. ``manifest``: by default the one that it was trained with. ``views``: clips along time, each
    cut ``crops`` times (1 or 3) along the long side; their scores are averaged. ``out``: the Parquet file
    for the predictions; by default a file in ``storage`` named after data set, split, protocol and weights.
    ``storage``: by default KINERAY_STORAGE or ./runs. ``device``: by default a GPU if there is one.
    ``decoders``: number of decoding processes. ``progress`` is called with (videos done, all videos).

    Raises CheckpointError, ManifestError if data and checkpoint do not fit, ConfigError, and StorageError if
    ``out`` cannot be written or holds the predictions of another protocol or checkpoint.
    """
    _check_crops(crops)
    loaded, device = open_checkpoint(checkpoint, storage=storage, device=device)
    if isinstance(manifest, Manifest):
        data, indexes = manifest, None
    else:
        uri = str(manifest or loaded.experiment.data.manifest)
        if not uri:
            raise ConfigError(
                "the checkpoint names no manifest",
                code="not_set",
                key="manifest",
                remedy="give a `manifest`",
            )
        data, indexes = load_manifest(uri), IndexCache.beside(uri)
    protocol = protocol_of(loaded, data, split, views=views, crops=crops)
    target = out or store.join(store.runs_folder(storage), _file_name(protocol, loaded.weights_sha256))
    store.check_writable(target)
    _check_not_taken(target, protocol, loaded)
    evaluation = evaluate_loaded(
        loaded,
        data,
        split,
        views=views,
        crops=crops,
        device=device,
        decoders=decoders,
        indexes=indexes,
        protocol=protocol,
        progress=progress,
    )
    save_predictions(evaluation, target)
    return replace(evaluation, file=target)


def predict(
    checkpoint: CheckpointLike,
    video: str | Path | BinaryIO,
    *,
    views: int = DEFAULT_VIEWS,
    crops: int = DEFAULT_CROPS,
    top_k: int = DEFAULT_TOP_K,
    storage: str | None = None,
    device: str | None = None,
) -> Prediction:
    """Classify one video, with the code that the endpoint runs.

    ``checkpoint``: a run's name in ``storage``, the folder or s3:// URI of a run or checkpoint, or a loaded
    checkpoint. ``video``: a path or an open binary file. ``views``: clips along time, each cut ``crops``
    times (1 or 3); ``top_k``: number of classes returned for each head. ``storage``: by default
    KINERAY_STORAGE or ./runs. ``device``: by default a GPU if there is one. Raises CheckpointError,
    DecodeError for a file that is not a readable video, and ConfigError if the model needs optical flow.
    """
    _check_crops(crops)
    loaded, device = open_checkpoint(checkpoint, storage=storage, device=device)
    file = Path(video) if isinstance(video, str) else video
    answer = predict_loaded(loaded, file, views=views, crops=crops, top_k=top_k, device=device)
    return Prediction(**answer)


def _check_crops(crops: int) -> None:
    if crops not in _CROPS:
        raise ConfigError(
            "not a number of crops",
            code="unknown_value",
            key="crops",
            value=crops,
            remedy="use 1 (centre) or 3 (left to right)",
        )


def _file_name(protocol: Mapping[str, Any], weights_sha256: str) -> str:
    """``predictions-ucf101-1a2b3c4d-val-10x3-9f8e7d6c.parquet``: data set, its content, protocol, weights."""
    dataset = re.sub(r"[^A-Za-z0-9._]+", "-", protocol["dataset"]).strip("-")
    split, views, crops = protocol["split"], protocol["views"], protocol["crops"]
    content, weights = protocol["manifest_hash"][:8], weights_sha256[:8]
    return f"predictions-{dataset}-{content}-{split}-{views}x{crops}-{weights}.parquet"


def _check_not_taken(target: str, protocol: Mapping[str, Any], loaded: Checkpoint) -> None:
    """Raise StorageError if ``target`` is anything but an older file of the same evaluation."""
    if not store.exists(target):
        return
    try:
        metadata = pq.read_schema(io.BytesIO(store.read_bytes(target))).metadata or {}
        about = json.loads(metadata[METADATA_KEY])
        is_same = about["protocol"] == json.loads(json.dumps(protocol))
        is_same = is_same and about["weights_sha256"] == loaded.weights_sha256
        problem = "holds the predictions of another protocol or checkpoint"
    except (pa.ArrowInvalid, KeyError, ValueError):
        is_same, problem = False, "exists, and holds no predictions"
    if not is_same:
        raise StorageError(problem, code="file_taken", key=target, remedy="name another file with `out`")
