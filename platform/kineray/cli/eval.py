"""``kineray eval``."""

import click

from kineray.cli.output import (
    at,
    crops_option,
    json_option,
    note_failures,
    show,
    storage_option,
    table,
)
from kineray.cli.plugins import plugin_option
from kineray.cli.progress import Progress
from kineray.errors import ConfigError

_CLASSES_SHOWN = 20


@click.command(name="eval", short_help="Evaluate a checkpoint with several views.")
@click.argument("checkpoint")
@click.argument("overrides", nargs=-1, metavar="[data.manifest=...]")
@click.option("--views", type=click.IntRange(1), default=10, show_default=True, help="Clips along time.")
@crops_option("3")
@click.option("--split", default="val", show_default=True, help="Split of the manifest.")
@click.option(
    "--out",
    metavar="FILE",
    help="Parquet file for the predictions of every video [default: predictions-*.parquet in the storage].",
)
@click.option("--decoders", type=click.IntRange(1), default=2, show_default=True, help="Decoding processes.")
@storage_option
@json_option
@plugin_option
def command(
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
    """Evaluate CHECKPOINT (a checkpoint or run folder, a run's name, or s3://...) and print its scores."""
    manifest = None
    for text in overrides:
        key, _, manifest = text.partition("=")
        if key != "data.manifest":
            raise ConfigError(
                "only data.manifest can be set in an evaluation",
                code="not_for_evaluation",
                key=text,
                remedy="leave it out: the checkpoint determines the rest",
            )
    from kineray.tracking.evaluate import evaluate

    with Progress("videos", doing="loading the checkpoint") as progress:
        evaluation = evaluate(
            checkpoint,
            manifest=manifest,
            split=split,
            views=views,
            crops=int(crops),
            out=out,
            storage=storage,
            decoders=decoders,
            progress=progress,
        )
    note_failures("counted as wrong", evaluation.failures)
    lines = [f"{key} {value:.4f}" for key, value in evaluation.metrics.items()]
    for head, scores in evaluation.per_class.items():
        rows = [{head: name, evaluation.class_score: value} for name, value in scores.items()]
        lines.append(table(rows[:_CLASSES_SHOWN], (head, evaluation.class_score)))
        if len(rows) > _CLASSES_SHOWN:
            lines.append(f"... all {len(rows)} classes of {head} with --json")
    precision = evaluation.protocol["precision"]
    lines.append(f"protocol: {views} views x {crops} crops, split {split}, {precision}")
    lines.append(f"predictions: {evaluation.file}")
    then = (f"kineray predict {checkpoint} VIDEO...{at(storage)}", f"kineray promote RUN{at(storage)}")
    show(evaluation, "\n".join(lines), as_json=as_json, then=then)
