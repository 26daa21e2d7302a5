"""``kineray runs``; ``kineray runs show`` is in show.py."""

import click

from kineray.cli.output import as_row, json_option, storage_option, table
from kineray.cli.output import show as show_result  # in this package, `show` is the module show.py
from kineray.cli.verbs import add_verbs


@click.group(name="runs", invoke_without_command=True, short_help="List runs, or show one.")
@storage_option
@json_option
@click.pass_context
def command(context: click.Context, storage: str, as_json: bool) -> None:
    """List the runs in MLflow, newest first."""
    context.obj = (storage, as_json)
    if context.invoked_subcommand is not None:
        return
    from kineray.tracking.api import list_runs

    found = list_runs(storage)
    columns = ("name", "status", "started", "best", "last", "fingerprint")
    text = table([as_row(run) for run in found], columns) if found else f"no runs in {storage}"
    then = (f"kineray runs show {found[0].name}",) if found else ("kineray demo",)
    show_result({"runs": [as_row(run) for run in found]}, text, as_json=as_json, then=then)


add_verbs(command, __name__)
