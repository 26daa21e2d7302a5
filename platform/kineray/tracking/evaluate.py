"""``kineray.evaluate``: scores of a checkpoint on a data set, which reach the record of its run."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kineray import storage as store
from kineray.data import Manifest, load_manifest
from kineray.data.manifest.index_cache import IndexCache
from kineray.errors import ConfigError, StorageError
from kineray.evaluation.checkpoints import CheckpointLike, check_crops, open_checkpoint
from kineray.evaluation.evaluate import Evaluation, protocol_of
from kineray.evaluation.evaluate import evaluate as evaluate_loaded
from kineray.evaluation.table import check_not_taken, file_name, short_name, write_table
from kineray.tracking.journal import add_to_run
from kineray.tracking.locations import run_id_of

log = logging.getLogger(__name__)


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
    """Evaluate a checkpoint on a split of a manifest, record its scores, and write its predictions.

    ``checkpoint``: a run's name in ``storage``, the folder or s3:// URI of a run or checkpoint, or a loaded
    checkpoint. ``manifest``: by default the one that it was trained with. ``views``: clips along time, each
    cut ``crops`` times (1 or 3) along the long side; their scores are averaged. ``out``: the Parquet file
    for the predictions; by default a file in ``storage`` named after data set, split, protocol and weights.
    ``storage``: by default KINERAY_STORAGE or ./runs. ``device``: by default a GPU if there is one.
    ``decoders``: number of decoding processes. ``progress`` is called with (videos done, all videos).

    The scores become metrics of the run that the checkpoint is from, at its step, if the run is in
    ``storage``: ``eval/<data set and hash>/<split>/<views>x<crops>/<head>/<metric>``, such as
    ``eval/ucf101-1a2b3c4d/val/10x3/action/top1``. If MLflow cannot be reached, that is logged, and a later
    command sends them.

    Raises CheckpointError, ManifestError if data and checkpoint do not fit, ConfigError, and StorageError if
    ``out`` cannot be written or holds the predictions of another protocol or checkpoint.
    """
    check_crops(crops)
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
    weights = loaded.weights_sha256
    runs = store.runs_folder(storage)
    target = out or store.join(runs, file_name("predictions", data, split, views, crops, weights))
    store.check_writable(target)
    check_not_taken(target, {"protocol": protocol, "weights_sha256": weights})
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
    write_table(evaluation.predictions, target)
    evaluation = replace(evaluation, file=target)
    _record(evaluation, loaded.uri, short_name(data), runs)
    return evaluation


def _record(evaluation: Evaluation, checkpoint: str, dataset: str, runs: str) -> None:
    """Write the scores to the record of the run that the checkpoint is from, if it has one in ``runs``."""
    run_id = run_id_of(checkpoint, runs)
    if run_id is None:
        return
    protocol = evaluation.protocol
    name = f"{dataset}/{protocol['split']}/{protocol['views']}x{protocol['crops']}"
    described = {
        "step": evaluation.step,
        "weights_sha256": evaluation.about["weights_sha256"],
        "predictions": evaluation.file and (store.relative(evaluation.file, runs) or evaluation.file),
        "protocol": protocol,
    }
    metrics = {f"eval/{name}/{metric}": value for metric, value in evaluation.metrics.items()}
    try:
        add_to_run(runs, run_id, metrics, evaluation.step, {f"eval.{name}": json.dumps(described)})
    except StorageError as error:
        log.warning("the scores are not in the record of the run: %s", error)
