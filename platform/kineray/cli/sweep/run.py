"""``kineray sweep``."""

import dataclasses
import sys
from typing import TYPE_CHECKING

import click

from kineray.cli.launch import launch_options, resolve, with_smoke_data
from kineray.cli.output import at, json_option, note, show, table
from kineray.cli.plugins import ExperimentCommand
from kineray.cli.progress import TrainingProgress
from kineray.cli.scripts import load_script
from kineray.errors import ConfigError

if TYPE_CHECKING:
    from kineray.options import WorkerOptions
    from kineray.training import Event


@click.command(
    name="sweep", cls=ExperimentCommand, short_help="Search learning rates and model fields with Ray Tune."
)
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--trials", type=click.IntRange(1), default=6, show_default=True, help="Number of trials.")
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=DOMAIN",
    help="Search KEY, as in optim.lr=log:0.01:1, optim.momentum=uniform:0.8:0.99 or model.alpha=4,8; may be "
    "repeated. Replaces the script's space.",
)
@click.option(
    "--concurrent",
    type=click.IntRange(1),
    help="Trials at the same time [default: one for every GPU, or CPU].",
)
@launch_options(
    name="Name of the sweep [default: the experiment's with -sweep, numbered].",
    resume="Continue the sweep --name, or the newest one of this experiment and space.",
    smoke="Search around the script's small experiment, on video files made for it.",
)
@json_option
def sweep(
    script: str,
    overrides: tuple[str, ...],
    *,
    trials: int,
    search: tuple[str, ...],
    storage: str,
    name: str | None,
    resume: bool,
    concurrent: int | None,
    options: "WorkerOptions",
    smoke: bool,
    as_json: bool,
) -> None:
    """Search the space of SCRIPT (or --search) with TPE and ASHA; every trial is a run."""
    from kineray.config import Choice, check_space, reset_by
    from kineray.config.space import parse_space

    loaded = load_script(script)
    experiment = resolve(loaded, overrides, script, smoke)
    space = parse_space(search) or loaded.search_space
    if not space:
        raise ConfigError(
            "defines no 'search_space'",
            code="not_defined",
            key=script,
            remedy="define one, or pass `search` optim.lr=log:0.01:1",
        )
    from kineray.orchestration import sweep as run_sweep

    check_space(experiment, space, fixed=[text.partition("=")[0] for text in overrides])
    for key, domain in space.items():
        for value in domain.values if isinstance(domain, Choice) else ():
            for line in reset_by(experiment, {key: value}):
                note(line)
    if smoke:
        experiment = with_smoke_data(experiment)
    with TrainingProgress() as progress:

        def on_event(trial: str, event: "Event") -> None:
            progress(event, prefix=f"[{trial}] ")

        outcome = run_sweep(
            experiment,
            space,
            trials=trials,
            storage=storage,
            name=name,
            resume=resume,
            concurrent=concurrent,
            options=options,
            on_event=on_event,
            command=sys.argv,
        )
    best = outcome.best
    of_trials = [dataclasses.asdict(trial) for trial in outcome.trials]
    show(
        {"sweep": outcome.name, "score": outcome.score, "trials": of_trials},
        f"score {outcome.score}\n{table(outcome.rows(), ('best', 'epoch', 'state', *space, 'run'))}",
        as_json=as_json,
        then=(f"kineray promote {best.name}{at(storage)}", f"kineray runs show {best.name}{at(storage)}")
        if best
        else (f"kineray runs{at(storage)}",),
    )


command = sweep
