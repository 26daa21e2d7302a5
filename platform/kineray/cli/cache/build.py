"""``kineray cache build``."""

import click

from kineray.cli.cache.ls import COLUMNS, row_of
from kineray.cli.launch import resolve, with_smoke_data
from kineray.cli.output import Size, at, decoders_option, json_option, note, show, storage_option, table
from kineray.cli.plugins import ExperimentCommand, plugin_option
from kineray.cli.scripts import load_script
from kineray.durations import duration


@click.command(name="build", cls=ExperimentCommand, short_help="Compute the features of an experiment.")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--max-cache", type=Size(), metavar="SIZE", help="Refuse to write more than this, such as 50GB."
)
@decoders_option
@storage_option
@plugin_option
@click.option("--smoke", is_flag=True, help="Of the script's small experiment, on videos made for it.")
@json_option
def command(
    script: str,
    overrides: tuple[str, ...],
    max_cache: int | None,
    decoders: int | None,
    storage: str,
    smoke: bool,
    as_json: bool,
) -> None:
    """Compute what the frozen backbone of SCRIPT makes of every training and validation clip.

    The size is printed before anything is written. A build that was stopped goes on where it was. Before it
    ends, a few clips are computed again, and must be equal.
    """
    from kineray import build_features

    experiment = resolve(load_script(script), overrides, script, smoke)
    if smoke:
        experiment = with_smoke_data(experiment)
    report = build_features(
        experiment, max_cache=max_cache, decoders=decoders, storage=storage, on_message=note
    )
    words = [script, *overrides, *["--smoke"] * smoke]
    show(
        report,
        f"{table([row_of(one) for one in report.sets], COLUMNS)}\n"
        f"{report.computed} clips computed in {duration(report.seconds)}",
        as_json=as_json,
        then=(f"kineray train {' '.join(words)} --cache-features{at(storage)}", "kineray cache ls"),
    )
