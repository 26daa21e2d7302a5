"""``kineray sweep stop``."""

import click

from kineray.cli.output import at, json_option, show, storage_option


@click.command(name="stop", short_help="Stop a sweep; it can be resumed.")
@click.argument("name")
@storage_option
@json_option
def command(name: str, storage: str, as_json: bool) -> None:
    """Stop the sweep NAME, wherever it runs. Trials that are running are cut off; `resume` continues them."""
    from kineray.orchestration import attach

    sweep = attach(name, storage=storage)
    status = sweep.status
    if status in {"starting", "running"}:
        sweep.stop()
        status = "stopping"
    then = (f"kineray sweep resume {name}{at(storage)}",)
    show({"sweep": name, "status": status}, f"{name}: {status}", as_json=as_json, then=then)
