"""What the verbs that start workers share: the experiment a user means, and the options of its workers."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import Size, note
from kineray.cli.scripts import Script
from kineray.errors import ConfigError
from kineray.options import WorkerOptions

if TYPE_CHECKING:
    from kineray.config import Experiment

SMOKE_DATA = "data/motion"


def worker_options(command: Callable[..., None]) -> Callable[..., None]:
    """One click option for every field of ``WorkerOptions``; ``command`` gets them as ``options``."""
    fields = dataclasses.fields(WorkerOptions)

    @functools.wraps(command)
    def with_options(*arguments: Any, **values: Any) -> None:
        options = WorkerOptions(**{field.name: values.pop(field.name) for field in fields})
        command(*arguments, options=options, **values)

    return functools.reduce(lambda wrapped, field: _option(field)(wrapped), reversed(fields), with_options)


def _option(field: "dataclasses.Field[Any]") -> Callable[[Any], Any]:
    name, help_text, unit = (
        f"--{field.name.replace('_', '-')}",
        field.metadata["help"],
        field.metadata["unit"],
    )
    if isinstance(field.default, bool):
        return click.option(name, is_flag=True, default=field.default, help=help_text)
    return click.option(
        name,
        type=Size() if unit == "SIZE" else click.IntRange(field.metadata["at_least"]),
        default=field.default,
        show_default=field.default is not None,
        metavar=unit or None,
        help=help_text,
    )


def resolve(script: Script, overrides: tuple[str, ...], source: str, smoke: bool) -> "Experiment":
    """The experiment of ``script``, or its small one, with ``overrides``. Raises ConfigError."""
    from kineray.config import apply_overrides

    if not smoke:
        return apply_overrides(script.experiment, overrides)
    if script.smoke is None:
        raise ConfigError(
            "defines no 'smoke' experiment",
            code="not_defined",
            key=source,
            remedy="define one, or leave out `smoke`",
        )
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
