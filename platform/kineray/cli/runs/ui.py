"""``kineray runs ui``."""

import signal

import click

from kineray.cli.output import note


@click.command(name="ui")
@click.option("--port", type=click.IntRange(1, 65535), help="Port on this host [default: a free one].")
@click.option("--storage", metavar="URI", help="Folder or s3:// prefix of all runs.")
@click.pass_obj
def command(of_group: tuple[str, bool], port: int | None, storage: str | None) -> None:
    """Show the runs in MLflow's user interface, at the URL that is printed, until Ctrl-C."""
    from kineray.tracking.ui import open_ui

    default_storage, _ = of_group
    try:
        with open_ui(storage or default_storage, port) as url:
            click.echo(url)
            note("Ctrl-C ends it")
            signal.pause()
    except KeyboardInterrupt:
        note("")
