"""``kineray sweep attach``."""

import click

from kineray.cli.output import json_option, note, storage_option
from kineray.cli.sweep.shown import show_outcome


@click.command(name="attach", short_help="Follow a sweep that runs in the background.")
@click.argument("name")
@storage_option
@json_option
def command(name: str, storage: str, as_json: bool) -> None:
    """Show how far the sweep NAME is until it ends, and then its trials. Ctrl-C leaves it running."""
    from kineray.orchestration import attach
    from kineray.orchestration.progress import visible_progress

    sweep = attach(name, storage=storage)
    try:
        with visible_progress():
            outcome = sweep.wait()
    except KeyboardInterrupt:
        note(f"{name} goes on; stop it with: kineray sweep stop {name}")
        return
    show_outcome(outcome, storage, as_json=as_json)
