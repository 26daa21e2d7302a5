"""``kineray serve``."""

import click

from kineray.cli.output import (
    crops_option,
    model_option,
    note,
    note_next,
    storage_option,
    top_k_option,
    views_option,
)
from kineray.cli.plugins import plugin_option


@click.command(name="serve", short_help="Serve the champion on 127.0.0.1:8000.")
@storage_option
@model_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="HTTP port.")
@views_option
@crops_option("1")
@top_k_option
@click.option(
    "--max-megabytes",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Size of the largest accepted video.",
)
@plugin_option
def command(
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
    from kineray.serving import serve

    def on_ready(url: str, version: int | str) -> None:
        note(f"serving {model_name} version {version} on {url}; Ctrl-C stops it")
        note_next((f"curl --data-binary @clip.mp4 {url}/v1/predict", "kineray promote RUN"))

    serve(
        storage=storage,
        model_name=model_name,
        host=host,
        port=port,
        views=views,
        crops=int(crops),
        top_k=top_k,
        max_bytes=max_megabytes * 2**20,
        on_ready=on_ready,
    )
