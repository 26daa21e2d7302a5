"""``kineray data``: one file a verb."""

import click

from kineray.cli.verbs import add_verbs


@click.group(name="data", short_help="Make, import and look at data sets.")
def command() -> None:
    """Manifests: which clips there are, where they lie, and their labels."""


add_verbs(command, __name__)
