"""``kineray verify-resume``."""

import sys
from typing import TYPE_CHECKING

import click

from kineray.cli.launch import resolve, with_smoke_data, worker_options
from kineray.cli.output import json_option, note, show
from kineray.cli.plugins import ExperimentCommand, plugin_option
from kineray.cli.scripts import load_script

if TYPE_CHECKING:
    from kineray.options import WorkerOptions


@click.command(
    name="verify-resume",
    cls=ExperimentCommand,
    short_help="Kill a run where others break, resume it, and compare it bit for bit.",
)
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--steps", type=click.IntRange(4), default=40, show_default=True, help="Steps of each run.")
@click.option(
    "--kill-at", type=int, multiple=True, metavar="STEP", help="Kill the run in this step; may be repeated."
)
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Training processes.")
@click.option("--elastic", is_flag=True, help="Resume with another number of workers each time.")
@worker_options
@plugin_option
@click.option("--smoke", is_flag=True, help="Check the script's small experiment, on videos made for it.")
@json_option
def command(
    script: str,
    overrides: tuple[str, ...],
    steps: int,
    kill_at: tuple[int, ...],
    workers: int,
    elastic: bool,
    options: "WorkerOptions",
    smoke: bool,
    as_json: bool,
) -> None:
    """Train the first steps of SCRIPT twice, once with SIGKILL in the middle, and compare both runs.

    The run is killed in a step, in the first step after a resume, while it writes a checkpoint and at the end
    of an epoch. Samples, learning rate, loss and random state of each step must be equal, and at the end
    weights, optimizer, recipe and scores. Exit code 1 if anything differs.
    """
    from kineray import verify_resume

    experiment = resolve(load_script(script), overrides, script, smoke)
    if smoke:
        experiment = with_smoke_data(experiment)
    found = verify_resume(
        experiment,
        steps=steps,
        kill_at=kill_at,
        workers=workers,
        elastic=elastic,
        options=options,
        on_life=note,
    )
    lines = [f"killed {len(found.kills)} times: {'; '.join(found.kills)}"]
    if found.difference is not None:
        lines += [f"differs: {found.difference}", f"both runs are in {found.folder}"]
    elif elastic:
        lines.append(f"the same samples to step {found.steps}, weights {found.distance:.1g} apart")
    else:
        lines.append(f"identical to step {found.steps}")
    show(found, "\n".join(lines), as_json=as_json)
    if not found.is_identical:
        sys.exit(1)
