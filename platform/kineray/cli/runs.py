"""``kineray runs`` and ``kineray runs show``."""

import dataclasses

import click

from kineray.cli.output import json_option, show, storage_option, table


@click.group(invoke_without_command=True, short_help="List runs, or show one.")
@storage_option
@json_option
@click.pass_context
def runs(context: click.Context, storage: str, as_json: bool) -> None:
    """List the runs in MLflow, newest first."""
    context.obj = (storage, as_json)
    if context.invoked_subcommand is not None:
        return
    from kineray.tracking import list_runs

    found = [dataclasses.asdict(run) for run in list_runs(storage)]
    text = (
        table(found, ("name", "status", "started", "best", "last", "fingerprint"))
        if found
        else f"no runs in {storage}"
    )
    newest = found[0]["name"] if found else None
    then = (f"kineray runs show {newest}",) if newest else ("kineray demo",)
    show({"runs": found}, text, as_json=as_json, then=then)


@runs.command(name="show")
@click.argument("run")
@click.option("--storage", metavar="URI", help="Folder or s3:// prefix of all runs.")
@json_option
@click.pass_obj
def show_run(of_group: tuple[str, bool], run: str, storage: str | None, as_json: bool) -> None:
    """Print RUN (a name or an MLflow run id): config, scores, metrics, code, data, checkpoints."""
    from kineray.tracking import get_run

    default_storage, json_of_group = of_group
    detail = dataclasses.asdict(get_run(storage or default_storage, run))
    lines = []
    for key, value in detail.items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {name}: {entry}" for name, entry in value.items()]
        else:
            lines.append(f"{key}: {value}")
    has_checkpoint = detail["best_checkpoint"] or detail["last_checkpoint"]  # a sweep has none: its trials do
    then = (f"kineray promote {detail['name']}",) if has_checkpoint else ("kineray runs",)
    show(detail, "\n".join(lines), as_json=as_json or json_of_group, then=then)
