"""``kineray promote``."""

import click

from kineray.cli.output import json_option, model_option, notes_of, show, storage_option
from kineray.cli.plugins import plugin_option


@click.command(name="promote", short_help="Make a run's best checkpoint the champion.")
@click.argument("run")
@storage_option
@model_option
@json_option
@plugin_option
def command(run: str, storage: str, model_name: str, as_json: bool) -> None:
    """Register the best checkpoint of RUN and make it the champion, also in a running service."""
    from kineray.serving import promote

    with notes_of("kineray.serving"):
        made = promote(run, storage=storage, model_name=model_name)
    state = "the running service answers with it" if made.served else "no service is running"
    text = f"{made.name} version {made.version} (run {made.run_name}) is the champion; {state}"
    then = ("kineray rollback",) if made.served else ("kineray serve", "kineray rollback")
    show(made, text, as_json=as_json, then=then)
