"""``kineray train``, and the same command for an experiment script that is run by itself."""

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.launch import Verb, add_options, launch_options, resolve, with_smoke_data
from kineray.cli.output import at, json_option, near, scores_line, show
from kineray.cli.plugins import ExperimentCommand
from kineray.cli.progress import TrainingProgress
from kineray.cli.scripts import Script, checked, load_script
from kineray.launched import launched

if TYPE_CHECKING:
    from kineray.options import WorkerOptions
    from kineray.orchestration import DryRun
    from kineray.orchestration.workers import WorkerCount


class _Workers(click.ParamType["WorkerCount"]):
    """``8``, or ``4:8``."""

    name = "N|MIN:MAX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from kineray.orchestration.workers import parse_workers

        try:
            return parse_workers(value) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"{value!r} is neither a number nor two such as 4:8.", param, ctx)


def _train_options(command: Verb) -> Verb:
    options = (
        click.option(
            "--workers",
            type=_Workers(),
            help="Training processes, or the least and the most "
            "[default: KINERAY_WORKERS, or one for every GPU, or 1].",
        ),
        launch_options(
            name="Name of the run [default: the experiment's, numbered].",
            resume="Continue the run --name, or the newest unfinished one, at its exact step.",
            smoke="Run the script's small experiment, on video files made for it.",
        ),
        click.option("--extend", is_flag=True, help="Continue the run --name for more train.epochs."),
        click.option(
            "--fork",
            metavar="RUN[@STEP]",
            help="Start from the last checkpoint of another run, or from that of STEP, with other values.",
        ),
        click.option(
            "--dry-run",
            is_flag=True,
            help="Show what the run would do and stop; nothing is started or written.",
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
    workers: "WorkerCount | None",
    storage: str,
    name: str | None,
    resume: bool,
    extend: bool,
    fork: str | None,
    options: "WorkerOptions",
    smoke: bool,
    dry_run: bool,
    print_config: bool,
    as_json: bool,
) -> None:
    experiment = resolve(script, overrides, source, smoke)
    if print_config:
        from kineray.config import arguments_of

        show(experiment.model_dump(mode="json"), "\n".join(arguments_of(experiment)), as_json=as_json)
        return
    from kineray import orchestration

    launch = launched()
    if smoke and not (launch and launch.rank):  # rank 0 tells the others
        experiment = with_smoke_data(experiment, make=not dry_run)
    run: dict[str, Any] = {
        "storage": storage,
        "workers": workers,
        "name": name,
        "resume": resume,
        "extend": extend,
        "fork": fork,
        "options": options,
    }
    if dry_run:
        preview = orchestration.dry_run(experiment, **run)
        show(
            preview,
            _preview_text(preview, overrides, storage),
            as_json=as_json,
            then=(_without_dry_run(source),),
        )
        return
    with TrainingProgress() as progress:
        outcome = orchestration.train(experiment, **run, on_event=progress, command=sys.argv)
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


def _preview_text(preview: "DryRun", overrides: tuple[str, ...], storage: str) -> str:
    run, shape = preview, preview.shape
    begins = f"from step {run.step} of {shape.total_steps} on" if run.step else "new"
    changed = f"; changed: {' '.join(overrides)}" if overrides else ""
    sizes = ", ".join(f"{count} {split}" for split, count in run.samples.items())
    heads = ", ".join(f"{head} with {count} classes" for head, count in run.classes.items())
    lines = {
        "run": f"{run.name} in {storage}, {begins}",
        "from": run.continuation,
        "experiment": f"{run.fingerprint}{changed}; --print-config shows all values",
        "data": f"{near(run.manifest)}: {sizes}; {heads}",
        "network": _network_text(run),
        **shape.lines(),
        "writes": ", ".join(f"{what} to {near(place)}" for what, place in run.writes.items()),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items() if text)


def _network_text(run: "DryRun") -> str:
    kind = run.experiment["model"]["type"]
    if run.parameters is None or run.multiply_adds is None:
        return f"{kind}"
    return f"{kind}: {run.parameters:,} parameters, {run.multiply_adds / 1e9:.3g} GMACs for a training clip"


def _without_dry_run(source: str) -> str:
    program = f"python {source}" if source == sys.argv[0] else "kineray"
    return " ".join([program, *map(shlex.quote, (word for word in sys.argv[1:] if word != "--dry-run"))])


command = train
