"""``kineray rollback``."""

import click

from kineray.cli.output import json_option, model_option, notes_of, show, storage_option
from kineray.cli.plugins import plugin_option


@click.command(name="rollback", short_help="Go back to the previous champion.")
@storage_option
@model_option
@json_option
@plugin_option
def command(storage: str, model_name: str, as_json: bool) -> None:
    """Make the previous version the champion again, also in a running service."""
    from kineray.serving import rollback

    with notes_of("kineray.serving"):
        made = rollback(storage=storage, model_name=model_name)
    state = "the running service answers with it" if made.served else "no service is running"
    text = f"{made.name} version {made.version} is the champion again; {state}"
    show(made, text, as_json=as_json, then=("kineray rollback",))
