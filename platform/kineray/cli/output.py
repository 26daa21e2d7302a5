"""Options and printing that the verbs share. Results go to stdout, everything else to stderr."""

import dataclasses
import json
import logging
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kineray.cli.plugins import plugins_to_repeat

if TYPE_CHECKING:
    from kineray.data import Failure
    from kineray.orchestration import RunOutcome
    from kineray.tracking import RunSummary

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_STORAGE = "./runs"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
storage_option = click.option(
    "--storage",
    envvar="KINERAY_STORAGE",
    default=DEFAULT_STORAGE,
    show_default=True,
    metavar="URI",
    help="Folder or s3:// prefix of all runs (or KINERAY_STORAGE).",
)
decoders_option = click.option(
    "--decoders", type=click.IntRange(1), help="Decoding processes [default: one per core]."
)
views_option = click.option(
    "--views", type=click.IntRange(1), default=1, show_default=True, help="Clips along time."
)
top_k_option = click.option(
    "--top-k", type=click.IntRange(1), default=5, show_default=True, help="Classes to return for each head."
)
model_option = click.option(
    "--model",
    "model_name",
    default="video-classifier",
    show_default=True,
    help="Name of the model in the registry.",
)


def crops_option(default: str) -> Callable[[Command], Command]:
    """``--crops``, with the default of a verb."""
    return click.option(
        "--crops",
        type=click.Choice(["1", "3"]),
        default=default,
        show_default=True,
        help="Spatial crops of each view.",
    )


class Size(click.ParamType[int]):
    """A number of bytes, written like 4GB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from kineray.storage.sizes import bytes_of

        try:
            return bytes_of(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Interval(click.ParamType[int | str]):
    """A number of steps, or a time written like 10m."""

    name = "interval"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        from kineray.durations import seconds_of

        text = str(value)
        if text.isdigit() and int(text) > 0:
            return int(text)
        try:
            seconds_of(text)
        except ValueError:
            self.fail(f"{text!r} is no number of steps, nor a time such as 90s, 10m or 1h30m", param, ctx)
        return text


def setting_option(
    flag: str, type: click.ParamType[Any], module: str, help: str
) -> Callable[[Command], Command]:
    """An option whose default is that of the same field of ``Settings`` in ``module``."""
    return click.option(flag, type=type, cls=_SettingOption, module=module, help=help)


class _SettingOption(click.Option):
    """Imports the module only when the default is needed, so that every other command starts quickly."""

    def __init__(self, *names: Any, module: str, **more: Any) -> None:
        super().__init__(*names, **more | {"show_default": True})
        self._module = module

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        """The field's default."""
        return getattr(import_module(self._module).Settings(), self.name)


def show(result: Any, text: str, *, as_json: bool, then: Sequence[str] = ()) -> None:
    """Print ``result`` as one JSON object, or ``text`` and, on stderr, useful next commands (``then``)."""
    if as_json:
        click.echo(json.dumps(json_of(result), indent=2, default=str))
        return
    click.echo(text)
    if then:
        note_next(then)


def json_of(result: Any) -> Any:
    """What ``--json`` prints for a result: its own ``to_json()``, or the fields of a dataclass by name."""
    if hasattr(result, "to_json"):
        return result.to_json()
    is_value = dataclasses.is_dataclass(result) and not isinstance(result, type)
    return dataclasses.asdict(result) if is_value else result


def as_row(value: Any) -> dict[str, Any]:
    """A dataclass as a row of ``table``."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def note_next(commands: Sequence[str]) -> None:
    """The commands that come next, each with the plug-ins of this one that it needs."""
    note("next:")
    for command in commands:
        plugins = plugins_to_repeat(command)
        note("".join([f"  {command}", *(f" --plugin {shlex.quote(near(plugin))}" for plugin in plugins)]))


def note(text: str) -> None:
    """Print a line for people on stderr; programs read stdout."""
    click.echo(text, err=True)


@contextmanager
def notes_of(logger: str) -> Iterator[None]:
    """Print what the library logs about its progress, as lines for people on stderr."""
    log = logging.getLogger(logger)
    if log.isEnabledFor(logging.DEBUG):  # --verbose prints it already
        yield
        return
    handler = _Notes(logging.INFO)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
        log.propagate = True


class _Notes(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


def note_first(lines: Sequence[str], count: int = 10) -> None:
    """Print the first ``count`` of ``lines`` on stderr, and how many more there are."""
    for line in lines[:count]:
        note(line)
    if len(lines) > count:
        note(f"... and {len(lines) - count} more")


def note_failures(what: str, failures: Sequence["Failure"]) -> None:
    """Name the videos that could not be decoded; ``what`` became of them, such as "counted as wrong"."""
    note_first([f"{what}: {f.message if f.uri in f.message else f'{f.uri}: {f.message}'}" for f in failures])


def near(location: str) -> str:
    """``location`` relative to the working directory, if it lies in it."""
    here = Path.cwd()
    return str(Path(location).relative_to(here)) if Path(location).is_relative_to(here) else location


def at(storage: str) -> str:
    """The flag with which another command finds the same runs; empty for the default storage."""
    return "" if storage == DEFAULT_STORAGE else f" --storage {storage}"


def scores_line(run: "RunOutcome | RunSummary") -> str:
    """``score action/top1: best 0.8125, last 0.7500``: what training and ``runs show`` say of a run."""
    best, last = ("-" if value is None else f"{value:.4f}" for value in (run.best, run.last))
    return f"score {run.score or '-'}: best {best}, last {last}"


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Left-aligned columns with a header; missing values are shown as '-'."""
    cells = [list(columns)] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
