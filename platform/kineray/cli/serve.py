"""``kineray serve``."""

import click

from kineray.cli.output import (
    at,
    crops_option,
    model_option,
    note,
    note_next,
    notes_of,
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
@click.option(
    "--cors",
    multiple=True,
    metavar="ORIGIN",
    help="A web origin, such as https://example.org, whose pages may call the service; * for all.",
)
@click.option(
    "--background", is_flag=True, help="Return when requests are answered; --stop ends the service."
)
@click.option("--stop", is_flag=True, help="End the service of this storage.")
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
    cors: tuple[str, ...],
    background: bool,
    stop: bool,
) -> None:
    """Serve the champion with Ray Serve until interrupted; promotions reach it without a restart."""
    from kineray.serving import serve, stop_service

    if stop:
        with notes_of("kineray.serving"):
            was_running = stop_service(storage)
        note("the service has ended" if was_running else "no service is running")
        return

    stop_it = f"kineray serve --stop{at(storage)}"

    def on_ready(url: str, version: int) -> None:
        how = f"`{stop_it}`" if background else "Ctrl-C"
        note(f"serving {model_name} version {version} on {url}; {how} stops it")
        note_next((f"curl --data-binary @clip.mp4 {url}/v1/predict", f"kineray promote RUN{at(storage)}"))

    with notes_of("kineray.serving"):
        serve(
            storage=storage,
            model_name=model_name,
            host=host,
            port=port,
            views=views,
            crops=int(crops),
            top_k=top_k,
            max_bytes=max_megabytes * 2**20,
            cors=cors,
            background=background,
            on_ready=on_ready,
        )
