"""What ``train`` and ``sweep`` share: their options, and the experiment that they run."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import Interval, Size, note, storage_option
from kineray.cli.plugins import plugin_option
from kineray.cli.progress import Progress
from kineray.cli.scripts import Script
from kineray.errors import ConfigError
from kineray.options import INTERVAL, TIME, WorkerOptions

if TYPE_CHECKING:
    from kineray.config import Experiment

SMOKE_DATA = "data/motion"

Verb = Callable[..., None]


def add_options(command: Verb, options: Sequence[Callable[[Any], Any]]) -> Verb:
    """``command`` with ``options``, which ``--help`` lists in this order."""
    return functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


def launch_options(*, name: str, resume: str, smoke: str) -> Callable[[Verb], Verb]:
    """The options that ``train`` and ``sweep`` share; the arguments are the help of those options."""
    options = (
        storage_option,
        click.option("--name", help=name),
        click.option("--resume", is_flag=True, help=resume),
        worker_options,
        plugin_option,
        click.option("--smoke", is_flag=True, help=smoke),
    )
    return functools.partial(add_options, options=options)


def worker_options(command: Verb) -> Verb:
    """One click option for every field of ``WorkerOptions``; ``command`` gets them as ``options``."""
    fields = dataclasses.fields(WorkerOptions)

    @functools.wraps(command)
    def with_options(*arguments: Any, **values: Any) -> None:
        options = WorkerOptions(**{field.name: values.pop(field.name) for field in fields})
        command(*arguments, options=options, **values)

    return add_options(with_options, [_option(field) for field in fields])


def _option(field: "dataclasses.Field[Any]") -> Callable[[Any], Any]:
    flag = f"--{field.name.replace('_', '-')}"
    unit, help_text = field.metadata["unit"], field.metadata["help"]
    types: dict[str, click.ParamType[Any]] = {"SIZE": Size(), TIME: click.STRING, INTERVAL: Interval()}
    if isinstance(field.default, bool):
        return click.option(flag, is_flag=True, default=field.default, help=help_text)
    return click.option(
        flag,
        type=types.get(unit) or click.IntRange(field.metadata["at_least"]),
        default=field.default,
        show_default=field.default is not None,
        metavar=unit or None,
        help=help_text,
    )


def resolve(script: Script, overrides: tuple[str, ...], source: str, smoke: bool) -> "Experiment":
    """The experiment of ``script`` (with ``smoke`` its small one) with ``overrides`` applied.

    ``source``: the script as the user wrote it, for errors. Raises ConfigError.
    """
    from kineray.config import apply_overrides, reset_by

    base = script.smoke if smoke else script.experiment
    if base is None:
        raise ConfigError(
            "defines no 'smoke' experiment",
            code="not_defined",
            key=source,
            remedy="define one, or leave out `smoke`",
        )
    experiment = apply_overrides(base, overrides)
    for line in reset_by(base, overrides):
        note(line)
    return experiment


def with_smoke_data(experiment: "Experiment", *, make: bool = True) -> "Experiment":
    """``experiment`` with the synthetic motion data, made in ``data/motion`` if it is not there yet.

    Raises ConfigError if it is not there and not to be made.
    """
    from kineray.config import apply_overrides

    if experiment.data.manifest:
        return experiment
    manifest = Path(SMOKE_DATA) / "manifest.parquet"
    if not manifest.exists():
        if not make:
            raise ConfigError(
                "its video files are not made yet",
                code="not_found",
                key="data.manifest",
                value=manifest,
                remedy=f"make them first: kineray data synth {SMOKE_DATA}",
            )
        from kineray.data.derive.synth import synthesize

        note(f"making video files in {SMOKE_DATA} (their classes differ only in motion)")
        with Progress("videos") as progress:
            synthesize(SMOKE_DATA, progress=progress)
    return apply_overrides(experiment, {"data.manifest": str(manifest)})
