"""``kineray data synth``."""

from typing import TYPE_CHECKING

import click

from kineray.cli.data.show import show_summary
from kineray.cli.output import json_option
from kineray.cli.progress import Progress

if TYPE_CHECKING:
    from kineray.data.derive.synth import Label


@click.command(name="synth")
@click.argument("folder", default="data/motion")
@click.option("--train", type=click.IntRange(4), default=256, show_default=True, help="Training videos.")
@click.option("--val", type=click.IntRange(4), default=64, show_default=True, help="Validation videos.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other videos.")
@click.option(
    "--label",
    type=click.Choice(["direction", "axis"]),
    default="direction",
    show_default=True,
    help="What is to be recognised: the direction (4 classes), or the axis (2).",
)
@json_option
def command(folder: str, train: int, val: int, seed: int, label: "Label", as_json: bool) -> None:
    """Make synthetic H.264 videos in FOLDER whose classes differ only in motion."""
    from kineray.data import describe, synthesize

    with Progress("videos") as progress:
        manifest = synthesize(folder, train=train, val=val, seed=seed, label=label, progress=progress)
    show_summary(describe(manifest), as_json)
