"""``kineray train``, and the same command for an experiment script that is run by itself."""

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.launch import Verb, add_options, launch_options, resolve, with_smoke_data
from kineray.cli.output import at, json_option, near, scores_line, show
from kineray.cli.plugins import ExperimentCommand
from kineray.cli.progress import TrainingProgress
from kineray.cli.scripts import Script, checked, load_script

if TYPE_CHECKING:
    from kineray.options import WorkerOptions


def _train_options(command: Verb) -> Verb:
    options = (
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Training processes [default: KINERAY_WORKERS, or one for every GPU, or 1].",
        ),
        launch_options(
            name="Name of the run [default: the experiment's, numbered].",
            resume="Continue the run --name, or the newest unfinished one, at its exact step.",
            smoke="Run the script's small experiment, on video files made for it.",
        ),
        click.option(
            "--print-config",
            is_flag=True,
            help="Print the resolved experiment and stop: KEY=VALUE lines, or with --json a file.",
        ),
        json_option,
    )
    return add_options(command, options)


@click.command(name="train", cls=ExperimentCommand, short_help="Train an experiment script or YAML file.")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_train_options
def train(script: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Train SCRIPT, a Python experiment or a YAML file, with KEY=VALUE changes to the science."""
    _train(load_script(script), overrides, script, **options)


@click.command(name="train", cls=ExperimentCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_train_options
@click.pass_obj
def train_experiment(obj: dict[str, Any], /, overrides: tuple[str, ...], **options: Any) -> None:
    """Train this experiment, with KEY=VALUE changes to the science."""
    script = checked(obj["experiment"], obj["smoke"], {}, sys.argv[0])
    _train(script, overrides, sys.argv[0], **options)


def _train(
    script: Script,
    overrides: tuple[str, ...],
    source: str,
    *,
    workers: int | None,
    storage: str,
    name: str | None,
    resume: bool,
    options: "WorkerOptions",
    smoke: bool,
    print_config: bool,
    as_json: bool,
) -> None:
    experiment = resolve(script, overrides, source, smoke)
    if print_config:
        from kineray.config import arguments_of

        show(experiment.model_dump(mode="json"), "\n".join(arguments_of(experiment)), as_json=as_json)
        return
    from kineray.orchestration import train as run_training

    if smoke:
        experiment = with_smoke_data(experiment)
    with TrainingProgress() as progress:
        outcome = run_training(
            experiment,
            storage=storage,
            workers=workers,
            name=name,
            resume=resume,
            options=options,
            on_event=progress,
            command=sys.argv,
        )
    show(
        dataclasses.asdict(outcome),
        f"run {outcome.name}: {outcome.step} steps, {scores_line(outcome)}\n"
        f"best checkpoint {near(outcome.best_checkpoint or '-')}\n"
        f"last checkpoint {near(outcome.last_checkpoint or '-')}",
        as_json=as_json,
        then=(
            f"kineray runs show {outcome.name}{at(storage)}",
            f"kineray eval {outcome.name} --views 10 --crops 3{at(storage)}",
            f"kineray promote {outcome.name}{at(storage)}",
        ),
    )


command = train
