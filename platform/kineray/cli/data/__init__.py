"""``kineray data``: one file a verb."""

import click

from kineray.cli.verbs import add_verbs


@click.group(name="data", short_help="Make, import and inspect data sets.")
def command() -> None:
    """Make, import and inspect manifests: the clips of a data set, their locations and labels."""


add_verbs(command, __name__)
