"""``kineray predict``."""

import click

from kineray.cli.output import crops_option, json_option, show, storage_option, top_k_option, views_option
from kineray.cli.plugins import plugin_option


@click.command(name="predict", short_help="Classify one video with a checkpoint.")
@click.argument("checkpoint")
@click.argument("video")
@views_option
@crops_option("1")
@top_k_option
@storage_option
@json_option
@plugin_option
def command(
    checkpoint: str, video: str, views: int, crops: str, top_k: int, storage: str, as_json: bool
) -> None:
    """Classify VIDEO with CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...).

    The prediction is computed by the same code as in a running service.
    """
    from kineray.evaluation.api import predict

    prediction = predict(checkpoint, video, views=views, crops=int(crops), top_k=top_k, storage=storage)
    lines = [
        f"{head}: " + ", ".join(f"{entry['label']} {entry['score']:.4f}" for entry in entries)
        for head, entries in prediction.predictions.items()
    ]
    show(prediction, "\n".join(lines), as_json=as_json, then=("kineray promote RUN", "kineray serve"))
