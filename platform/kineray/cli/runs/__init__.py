"""``kineray runs``: the list; each of its verbs is a module."""

import click

from kineray.cli.output import as_row, at, json_option, storage_option, table
from kineray.cli.output import show as show_result  # in this package, `show` is the module show.py
from kineray.cli.verbs import add_verbs

_COLUMNS = ("name", "status", "started", "best", "last", "score", "fingerprint")
_STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")


class _Tag(click.ParamType[tuple[str, str]]):
    name = "KEY=VALUE"

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not key or not equals:
            self.fail(f"{value} is not KEY=VALUE", param, ctx)
        return key, text


@click.group(name="runs", invoke_without_command=True, short_help="List, show, tag or delete runs.")
@storage_option
@click.option("--name", default="*", metavar="PATTERN", help="Runs of such names, such as 'slowfast*'.")
@click.option(
    "--status", type=click.Choice(["RUNNING", "FINISHED", "FAILED", "KILLED"], case_sensitive=False)
)
@click.option("--tag", "tags", type=_Tag(), multiple=True, metavar="KEY=VALUE", help="Runs with this tag.")
@click.option("--metric", "metrics", multiple=True, help="Show this metric, too, such as val/action/top1.")
@click.option(
    "--sort", default="started", show_default=True, help="Column or metric; the highest comes first."
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most this many.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    storage: str,
    name: str,
    status: str | None,
    tags: tuple[tuple[str, str], ...],
    metrics: tuple[str, ...],
    sort: str,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the runs in MLflow, newest first."""
    context.obj = (storage, as_json)
    if context.invoked_subcommand is not None:
        return
    from kineray.tracking.api import list_runs

    found = list_runs(storage, name=name, status=status, tags=dict(tags), sort=sort, limit=limit)
    shown = metrics if sort in (*_COLUMNS, "duration_s", *metrics) else (*metrics, sort)
    rows = [{**as_row(run), **run.metrics} for run in found]
    text = table(rows, (*_COLUMNS, *shown)) if found else f"no such runs in {storage}"
    then = (f"kineray runs show {found[0].name}{at(storage)}",) if found else ("kineray demo",)
    show_result({"runs": [as_row(run) for run in found]}, text, as_json=as_json, then=then)


add_verbs(command, __name__)
