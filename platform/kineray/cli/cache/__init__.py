"""``kineray cache``: one file a verb."""

import click

from kineray.cli.verbs import add_verbs


@click.group(name="cache", short_help="Features of a frozen backbone, computed once.")
def command() -> None:
    """What a frozen backbone computes of each clip: `kineray train --cache-features` reads it."""


add_verbs(command, __name__)
