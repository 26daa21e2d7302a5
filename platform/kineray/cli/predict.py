"""``kineray predict``."""

from typing import Any

import click

from kineray.cli.output import (
    at,
    crops_option,
    decoders_option,
    json_option,
    note,
    note_failures,
    show,
    storage_option,
    table,
    top_k_option,
    views_option,
)
from kineray.cli.plugins import plugin_option
from kineray.cli.progress import Progress

_ROWS_SHOWN = 20  # of a manifest, whose predictions are in a file


@click.command(name="predict", short_help="Classify videos with a checkpoint.")
@click.argument("checkpoint")
@click.argument("videos", nargs=-1, required=True, metavar="VIDEO...")
@views_option
@crops_option("1")
@top_k_option
@click.option("--split", help="Split of the manifest [default: all].")
@click.option(
    "--out",
    metavar="FILE",
    help="Parquet file for the probabilities of all classes [default, for a manifest: predicted-*.parquet in"
    " the storage].",
)
@decoders_option
@storage_option
@json_option
@plugin_option
def command(
    checkpoint: str,
    videos: tuple[str, ...],
    views: int,
    crops: str,
    top_k: int,
    split: str | None,
    out: str | None,
    decoders: int | None,
    storage: str,
    as_json: bool,
) -> int:
    """Classify each VIDEO with CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...).

    VIDEO is a file, a folder, which stands for all videos below it, or a manifest (.parquet). The prediction
    is computed by the same code as in a running service. With --json, a single file gives one object, and
    everything else one with a list of videos.

    Exit code 2 if any video cannot be classified; it is named, and the others are classified.
    """
    from kineray.evaluation.api import predict
    from kineray.evaluation.many import is_one_video, predict_many

    then = (f"kineray promote RUN{at(storage)}", f"kineray serve{at(storage)}")
    if len(videos) == 1 and is_one_video(videos[0]) and out is split is None:
        prediction = predict(
            checkpoint, videos[0], views=views, crops=int(crops), top_k=top_k, storage=storage
        )
        lines = [f"{head}: {_classes(classes)}" for head, classes in prediction.predictions.items()]
        show(prediction, "\n".join(lines), as_json=as_json, then=then)
        return 0
    with Progress("videos", doing="loading the checkpoint") as progress:
        made = predict_many(
            checkpoint,
            videos,
            split=split,
            views=views,
            crops=int(crops),
            top_k=top_k,
            out=out,
            storage=storage,
            decoders=decoders,
            progress=progress,
        )
    note_failures("not classified", made.failures)
    shown = made.videos if made.file is None else made.videos[:_ROWS_SHOWN]
    rows = [
        {"video": video.uri, **{head: _classes(classes) for head, classes in video.predictions.items()}}
        for video in shown
    ]
    lines = [table(rows, ("video", *made.classes))]
    if made.file is not None:
        lines.append(f"predictions of all {len(made.videos)} videos: {made.file}")
    show(made, "\n".join(lines), as_json=as_json, then=then)
    if made.failures:
        note(f"kineray: {len(made.failures)} of {len(made.videos)} videos cannot be classified")
        return 2
    return 0


def _classes(best: list[dict[str, Any]]) -> str:
    return ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in best)
