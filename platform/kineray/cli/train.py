"""``kineray train`` and ``kineray sweep``."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import (
    Size,
    TrainingProgress,
    at,
    json_option,
    near,
    note,
    show,
    storage_option,
    table,
)
from kineray.cli.scripts import Script, load_script
from kineray.errors import ConfigError

if TYPE_CHECKING:
    from kineray.config import Experiment
    from kineray.training import Event

SMOKE_DATA = "data/motion"


def _launch_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Training processes [default: KINERAY_WORKERS, or one for every GPU, or 1].",
        ),
        storage_option,
        click.option("--name", help="Name of the run [default: the experiment's, numbered]."),
        click.option(
            "--resume",
            is_flag=True,
            help="Continue the run --name, or the newest unfinished one, at its exact step.",
        ),
        click.option(
            "--micro-batch",
            type=click.IntRange(1),
            help="Clips a worker holds at once, a multiple of train.bn_group.",
        ),
        click.option(
            "--checkpoint-every",
            type=click.IntRange(1),
            metavar="STEPS",
            help="Checkpoint also between validations.",
        ),
        click.option(
            "--decoders",
            type=click.IntRange(1),
            help="Decoding processes of each worker [default: its CPUs].",
        ),
        click.option(
            "--max-memory",
            type=Size(),
            metavar="SIZE",
            help="What decoded clips may take in each worker, such as 4GB [default: what keeps it busy].",
        ),
        click.option(
            "--activation-checkpointing",
            is_flag=True,
            help="Less memory on the device for more time: compute activations again in the backward pass.",
        ),
        click.option(
            "--max-failures",
            type=click.IntRange(0),
            default=3,
            show_default=True,
            help="How often a lost worker is replaced.",
        ),
        click.option(
            "--smoke", is_flag=True, help="Run the script's small experiment, on video files made for it."
        ),
        click.option("--print-config", is_flag=True, help="Print the resolved experiment as YAML and stop."),
        json_option,
    )
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


@click.command(name="train", short_help="Train an experiment script or YAML file.")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_launch_options
def train(script: str, overrides: tuple[str, ...], **options: Any) -> None:
    """Train SCRIPT, a Python experiment or a YAML file, with KEY=VALUE changes to the science."""
    _train(load_script(script), overrides, script, **options)


@click.command(name="train", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_launch_options
@click.pass_obj
def train_experiment(obj: dict[str, Any], /, overrides: tuple[str, ...], **options: Any) -> None:
    """Train this experiment, with KEY=VALUE changes to the science."""
    _train(Script(obj["experiment"], obj["smoke"]), overrides, sys.argv[0], **options)


def _train(
    script: Script,
    overrides: tuple[str, ...],
    source: str,
    *,
    storage: str,
    smoke: bool,
    print_config: bool,
    as_json: bool,
    **launch_options: Any,
) -> None:
    experiment = _resolve(script, overrides, source, smoke)
    if print_config:
        from kineray.config import to_yaml

        click.echo(to_yaml(experiment), nl=False)
        return
    from kineray.orchestration import Launch
    from kineray.orchestration import train as run_training

    if smoke:
        experiment = with_smoke_data(experiment)
    progress = TrainingProgress()
    launch = Launch(
        storage=storage,
        command=sys.argv,
        **launch_options,
    )
    try:
        outcome = run_training(experiment, launch, progress)
    finally:
        progress.close()
    score = "-" if outcome.score is None else f"{outcome.score:.4f}"
    checkpoint = near(outcome.best or outcome.last or "")
    show(
        dataclasses.asdict(outcome),
        f"run {outcome.name}: {outcome.step} steps, best validation top-1 {score}\ncheckpoint {checkpoint}",
        as_json=as_json,
        then=(
            f"kineray runs show {outcome.name}{at(storage)}",
            f"kineray eval {checkpoint} --views 10 --crops 3",
            f"kineray promote {outcome.name}{at(storage)}",
        ),
    )


def _resolve(script: Script, overrides: tuple[str, ...], source: str, smoke: bool) -> "Experiment":
    from kineray.config import apply_overrides

    if not smoke:
        return apply_overrides(script.experiment, overrides)
    if script.smoke is None:
        raise ConfigError(f"--smoke: {source} defines no 'smoke' experiment")
    return apply_overrides(script.smoke, overrides)


def with_smoke_data(experiment: "Experiment") -> "Experiment":
    """The experiment on the made motion data, which is written to ``data/motion`` once."""
    from kineray.config import apply_overrides

    if experiment.data.manifest:
        return experiment
    manifest = Path(SMOKE_DATA) / "manifest.parquet"
    if not manifest.exists():
        from kineray.data.derive.synth import synthesize

        note(f"making video files in {SMOKE_DATA} (only their motion tells the class)")
        synthesize(SMOKE_DATA)
    return apply_overrides(experiment, {"data.manifest": str(manifest)})


@click.command(name="sweep", short_help="Search learning rates and model fields with Ray Tune.")
@click.argument("script")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--trials", type=click.IntRange(1), default=6, show_default=True)
@click.option(
    "--search",
    multiple=True,
    metavar="KEY=DOMAIN",
    help="optim.lr=log:0.01:1, optim.momentum=uniform:0.8:0.99 or model.alpha=4,8; "
    "replaces the script's space.",
)
@storage_option
@click.option("--name", help="Name of the sweep.")
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the sweep --name, or the newest one of this experiment and space.",
)
@click.option(
    "--concurrent", type=click.IntRange(1), help="Trials at once [default: one for every GPU, or CPU]."
)
@click.option("--smoke", is_flag=True, help="Search around the script's small experiment.")
@json_option
def sweep(
    script: str,
    overrides: tuple[str, ...],
    trials: int,
    search: tuple[str, ...],
    storage: str,
    name: str | None,
    resume: bool,
    concurrent: int | None,
    smoke: bool,
    as_json: bool,
) -> None:
    """Search the space of SCRIPT (or --search) with TPE and ASHA; every trial is a run."""
    from kineray.config import check_space, parse_domain

    loaded = load_script(script)
    experiment = _resolve(loaded, overrides, script, smoke)
    space = dict(parse_domain(text) for text in search) or loaded.search_space
    if not space:
        raise ConfigError(
            f"{script}: defines no 'search_space'; define one, or pass --search optim.lr=log:0.01:1"
        )
    from kineray.orchestration import sweep as run_sweep

    check_space(experiment, space, fixed=[text.partition("=")[0] for text in overrides])
    if smoke:
        experiment = with_smoke_data(experiment)
    progress = TrainingProgress()

    def on_event(trial: str, event: "Event") -> None:
        progress(event, prefix=f"[{trial}] ")

    try:
        outcome = run_sweep(
            experiment,
            space,
            trials=trials,
            storage=storage,
            name=name,
            resume=resume,
            concurrent=concurrent,
            on_event=on_event,
            command=sys.argv,
        )
    finally:
        progress.close()
    best = outcome.best
    show(
        {"sweep": outcome.name, "trials": [dataclasses.asdict(t) for t in outcome.trials]},
        table(outcome.rows(), ("score", "epoch", "state", *space, "run")),
        as_json=as_json,
        then=(f"kineray promote {best.name}{at(storage)}", f"kineray runs show {best.name}{at(storage)}")
        if best
        else (f"kineray runs{at(storage)}",),
    )


command = train
