"""``kineray eval`` and ``kineray predict``."""

import uuid
from pathlib import Path
from typing import Any

import click

from kineray.cli.output import (
    Progress,
    crops_option,
    json_option,
    note,
    show,
    storage_option,
    table,
    views_option,
)
from kineray.errors import ConfigError, StorageError


@click.command(name="eval", short_help="Evaluate a checkpoint with several views.")
@click.argument("checkpoint")
@click.argument("overrides", nargs=-1, metavar="[data.manifest=...]")
@click.option("--views", type=click.IntRange(1), default=10, show_default=True, help="Clips along time.")
@click.option(
    "--crops",
    type=click.Choice(["1", "3"]),
    default="3",
    show_default=True,
    help="Spatial crops of each view.",
)
@click.option("--split", default="val", show_default=True)
@click.option(
    "--out",
    metavar="FILE",
    help="Per-video predictions as Parquet [default: predictions-*.parquet in the storage].",
)
@click.option(
    "--decoders", type=click.IntRange(1), default=2, show_default=True, help="Processes that decode."
)
@storage_option
@json_option
def evaluate(
    checkpoint: str,
    overrides: tuple[str, ...],
    views: int,
    crops: str,
    split: str,
    out: str | None,
    decoders: int,
    storage: str,
    as_json: bool,
) -> None:
    """Evaluate CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...) and print its accuracy."""
    for text in overrides:
        if text.partition("=")[0] != "data.manifest":
            raise ConfigError(
                f"{text}: only data.manifest can be changed in an evaluation; the rest is the checkpoint's"
            )
    from kineray.config import apply_overrides
    from kineray.data import load_manifest
    from kineray.data.manifest.index_cache import IndexCache
    from kineray.evaluation import evaluate as run_evaluation
    from kineray.evaluation import save_predictions
    from kineray.training import load_checkpoint

    loaded = load_checkpoint(find_checkpoint(checkpoint, storage), device=best_device())
    target = (
        out
        or f"{storage.rstrip('/')}/predictions-{loaded.weights_sha256[:8]}-{split}-{views}x{crops}.parquet"
    )
    check_writable(target)
    experiment = apply_overrides(loaded.experiment, overrides)
    with Progress("videos") as progress:
        evaluation = run_evaluation(
            loaded,
            load_manifest(experiment.data.manifest),
            split,
            views=views,
            crops=int(crops),
            device=best_device(),
            decoders=decoders,
            indexes=IndexCache.beside(experiment.data.manifest),
            progress=progress,
        )
    save_predictions(evaluation, target)
    for failure in evaluation.failures:
        note(f"counted as wrong: {failure.uri}: {failure.message}")
    result: dict[str, Any] = {
        "checkpoint": loaded.uri,
        "weights_sha256": loaded.weights_sha256,
        "protocol": evaluation.protocol,
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
        "predictions": target,
        "failures": [{"id": f.id, "uri": f.uri, "code": f.code} for f in evaluation.failures],
    }
    lines = [f"{key} {value:.4f}" for key, value in evaluation.metrics.items()]
    for head, accuracies in evaluation.per_class.items():
        rows = [{"class": name, "accuracy": value} for name, value in accuracies.items()]
        lines.append(table(rows[:20], ("class", "accuracy")))
        if len(rows) > 20:
            lines.append(f"... all {len(rows)} classes of {head} with --json")
    lines.append(f"protocol: {views} views x {crops} crops, split {split}; predictions in {target}")
    show(
        result,
        "\n".join(lines),
        as_json=as_json,
        then=(f"kineray predict {checkpoint} VIDEO", "kineray promote RUN"),
    )


@click.command(short_help="Classify one video with a checkpoint.")
@click.argument("checkpoint")
@click.argument("video")
@views_option
@crops_option
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True)
@storage_option
@json_option
def predict(
    checkpoint: str, video: str, views: int, crops: str, top_k: int, storage: str, as_json: bool
) -> None:
    """Classify VIDEO offline, by the same code as the endpoint."""
    from kineray.evaluation import predict as run_prediction
    from kineray.training import load_checkpoint

    loaded = load_checkpoint(find_checkpoint(checkpoint, storage), device=best_device())
    answer = run_prediction(
        loaded, Path(video), views=views, crops=int(crops), top_k=top_k, device=best_device()
    )
    lines = [
        f"{head}: " + ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in entries)
        for head, entries in answer["predictions"].items()
    ]
    show(answer, "\n".join(lines), as_json=as_json, then=("kineray promote RUN", "kineray serve"))


def find_checkpoint(reference: str, storage: str) -> str:
    """``reference`` as a location: a path or URI as it is, a run's name inside ``storage`` otherwise."""
    from kineray import storage as store

    if store.is_remote(reference) or Path(reference).exists():
        return reference
    inside = store.join(storage, reference)
    return inside if store.exists(store.join(inside, "checkpoints", "index.json")) else reference


def check_writable(target: str) -> None:
    """Raise StorageError unless a file can be written at ``target``: now, not after hours of work."""
    from kineray import storage as store

    probe = f"{target}.{uuid.uuid4().hex}.tmp"
    if not store.is_remote(target) and Path(target).is_dir():
        raise StorageError(f"{target}: a folder; name a file")
    store.write_bytes(probe, b"")
    store.delete_file(probe)


def best_device() -> str:
    """``cuda`` where there is a GPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
