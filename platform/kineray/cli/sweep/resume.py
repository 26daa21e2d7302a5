"""``kineray sweep resume``."""

import click

from kineray.cli.output import at, json_option, show, storage_option


@click.command(name="resume", short_help="Continue a sweep, perhaps with more trials.")
@click.argument("name")
@click.option("--trials", type=click.IntRange(1), help="Number of trials in all [default: as before].")
@storage_option
@json_option
def command(name: str, trials: int | None, storage: str, as_json: bool) -> None:
    """Continue the sweep NAME in the background. Trials that ended are kept, others go on."""
    from kineray.orchestration import attach

    sweep = attach(name, storage=storage).resume(trials=trials)
    then = (f"kineray sweep attach {name}{at(storage)}",)
    show({"sweep": name, "status": sweep.status}, f"{name}: {sweep.status}", as_json=as_json, then=then)
