"""``kineray serve``, ``promote`` and ``rollback``."""

import dataclasses

import click

from kineray.cli.output import crops_option, json_option, note, show, storage_option, views_option

model_option = click.option(
    "--model", "model_name", default="video-classifier", show_default=True, help="Name in the model registry."
)


@click.command(short_help="Serve the champion on 127.0.0.1:8000.")
@storage_option
@model_option
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@views_option
@crops_option
@click.option("--top-k", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--max-megabytes", type=click.IntRange(1), default=64, show_default=True, help="Largest accepted video."
)
def serve(
    storage: str,
    model_name: str,
    host: str,
    port: int,
    views: int,
    crops: str,
    top_k: int,
    max_megabytes: int,
) -> None:
    """Serve the champion with Ray Serve until interrupted; promotions reach it without a restart."""
    from kineray.serving import serve as run_service

    def on_ready(url: str, version: int | str) -> None:
        note(f"serving {model_name} version {version} on {url}; Ctrl-C stops it")
        note("next:")
        note(f"  curl --data-binary @clip.mp4 {url}/v1/predict")
        note("  kineray promote RUN")

    run_service(
        storage,
        model_name=model_name,
        host=host,
        port=port,
        views=views,
        crops=int(crops),
        top_k=top_k,
        max_bytes=max_megabytes * 2**20,
        on_ready=on_ready,
    )


@click.command(short_help="Make a run's best checkpoint the champion.")
@click.argument("run")
@storage_option
@model_option
@json_option
def promote(run: str, storage: str, model_name: str, as_json: bool) -> None:
    """Register the best checkpoint of RUN, make it the champion, and serve it where a service runs."""
    from kineray.serving import promote as run_promotion

    outcome = dataclasses.asdict(run_promotion(storage, run, model_name=model_name))
    where = "the running service answers with it" if outcome["served"] else "no service is running"
    show(
        outcome,
        f"{outcome['name']} version {outcome['version']} (run {outcome['run_name']}) is the champion; "
        f"{where}",
        as_json=as_json,
        then=("kineray rollback",) if outcome["served"] else ("kineray serve", "kineray rollback"),
    )


@click.command(short_help="Go back to the previous champion.")
@storage_option
@model_option
@json_option
def rollback(storage: str, model_name: str, as_json: bool) -> None:
    """Make the previous version the champion again, and serve it where a service runs."""
    from kineray.serving import rollback as run_rollback

    outcome = dataclasses.asdict(run_rollback(storage, model_name=model_name))
    where = "the running service answers with it" if outcome["served"] else "no service is running"
    show(
        outcome,
        f"{outcome['name']} version {outcome['version']} is the champion again; {where}",
        as_json=as_json,
        then=("kineray rollback",),
    )
