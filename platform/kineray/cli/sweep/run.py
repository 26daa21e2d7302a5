"""``kineray sweep SCRIPT``, or ``kineray sweep run SCRIPT``."""

import sys
from typing import TYPE_CHECKING

import click

from kineray.cli.launch import launch_options, resolve, with_smoke_data
from kineray.cli.output import at, json_option, note, show
from kineray.cli.plugins import ExperimentCommand
from kineray.cli.progress import TrainingProgress
from kineray.cli.scripts import load_script
from kineray.cli.sweep.shown import show_outcome
from kineray.errors import ConfigError
from kineray.options import SCHEDULERS, SEARCHERS

if TYPE_CHECKING:
    from kineray.options import WorkerOptions
    from kineray.training import Event


@click.command(name="run", cls=ExperimentCommand, short_help="Start a sweep (the default).")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--trials", type=click.IntRange(1), help="Number of trials [default: 6, or all of a grid].")
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=DOMAIN",
    help="Search KEY, as in optim.lr=log:0.01:1, optim.momentum=uniform:0.8:0.99, "
    "data.frames=integers:8:32:8, model.alpha=4,8 or model.alpha=ordered:2,4,8; may be repeated. Replaces "
    "the script's space.",
)
@click.option(
    "--space", "space_file", metavar="FILE", help="A YAML file with the space, in place of the script's."
)
@click.option(
    "--searcher", type=click.Choice(SEARCHERS), default="tpe", show_default=True, help="Proposes points."
)
@click.option(
    "--scheduler",
    type=click.Choice(SCHEDULERS),
    default="asha",
    show_default=True,
    help="Ends trials early.",
)
@click.option("--budget", metavar="TIME|GPUH", help="Stop after this, such as 2h or 40gpuh.")
@click.option(
    "--max-failed",
    type=float,
    default=0.25,
    show_default=True,
    help="Stop if more than this share of the trials have failed.",
)
@click.option(
    "--concurrent",
    type=click.IntRange(1),
    help="Trials at the same time [default: one for every GPU, or CPU].",
)
@click.option("--detach", is_flag=True, help="Run in the background.")
@launch_options(
    name="Name of the sweep [default: the experiment's with -sweep, numbered].",
    resume="Continue the sweep --name, or the newest one of this experiment and space.",
    smoke="Search around the script's small experiment, on video files made for it.",
)
@json_option
def command(
    script: str,
    overrides: tuple[str, ...],
    *,
    trials: int | None,
    search: tuple[str, ...],
    space_file: str | None,
    searcher: str,
    scheduler: str,
    budget: str | None,
    max_failed: float,
    concurrent: int | None,
    detach: bool,
    storage: str,
    name: str | None,
    resume: bool,
    options: "WorkerOptions",
    smoke: bool,
    as_json: bool,
) -> None:
    """Search the space of SCRIPT (or --search, or --space); every trial is a run."""
    from kineray.config import Choice, check_space, parse_space, read_space, reset_by
    from kineray.orchestration.settings import SearchSettings

    loaded = load_script(script)
    experiment = resolve(loaded, overrides, script, smoke)
    space = parse_space(search) or (read_space(space_file) if space_file else loaded.search_space)
    if not space:
        raise ConfigError(
            "defines no 'search_space'",
            code="not_defined",
            key=script,
            remedy="define one, or pass `search` optim.lr=log:0.01:1",
        )
    fixed = [text.partition("=")[0] for text in overrides]
    check_space(experiment, space, fixed=fixed)
    settings = SearchSettings(trials, searcher, scheduler, concurrent, budget, max_failed)
    settings.check(space)
    for key, domain in space.items():
        for value in domain.values if isinstance(domain, Choice) else ():
            for line in reset_by(experiment, {key: value}):
                note(line)
    if smoke:
        experiment = with_smoke_data(experiment)
    from kineray.orchestration.search import check_sweep, run_sweep
    from kineray.orchestration.sweeps import start_sweep

    checked = check_sweep(
        experiment,
        space,
        settings=settings,
        overrides=(),
        fixed=fixed,
        storage=storage,
        name=name,
        options=options,
    )
    if detach:
        started = start_sweep(checked, name)
        then = (f"kineray sweep attach {started.name}{at(storage)}",)
        show({"sweep": started.name}, f"{started.name} is starting", as_json=as_json, then=then)
        return
    with TrainingProgress() as progress:

        def on_event(trial: str, event: "Event") -> None:
            progress(event, prefix=f"[{trial}] ")

        outcome = run_sweep(checked, name=name, resume=resume, on_event=on_event, command=sys.argv)
    show_outcome(outcome, storage, as_json=as_json)
