"""``kineray data synth``."""

import click

from kineray.cli.data.show import show_summary
from kineray.cli.output import json_option
from kineray.cli.progress import Progress


@click.command(name="synth")
@click.argument("folder", default="data/motion")
@click.option("--train", type=click.IntRange(4), default=256, show_default=True, help="Training videos.")
@click.option("--val", type=click.IntRange(4), default=64, show_default=True, help="Validation videos.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other videos.")
@json_option
def command(folder: str, train: int, val: int, seed: int, as_json: bool) -> None:
    """Make synthetic H.264 videos in FOLDER whose classes differ only in motion."""
    from kineray.data import describe, synthesize

    with Progress("videos") as progress:
        manifest = synthesize(folder, train=train, val=val, seed=seed, progress=progress)
    show_summary(describe(manifest), as_json)
