"""``kineray runs show``."""

import click

from kineray.cli.output import as_row, at, json_option, show


@click.command(name="show")
@click.argument("run")
@click.option("--storage", metavar="URI", help="Folder or s3:// prefix of all runs.")
@json_option
@click.pass_obj
def command(of_group: tuple[str, bool], run: str, storage: str | None, as_json: bool) -> None:
    """Print RUN (a name or an MLflow run id): config, scores, metrics, code version, data, checkpoints."""
    from kineray.tracking.api import get_run

    default_storage, json_of_group = of_group
    folder = storage or default_storage
    detail = get_run(run, storage=folder)
    lines = []
    for key, value in as_row(detail).items():
        if isinstance(value, dict):
            lines.append(f"{key}:")
            lines += [f"  {name}: {entry}" for name, entry in value.items()]
        else:
            lines.append(f"{key}: {value}")
    has_checkpoint = detail.best_checkpoint or detail.last_checkpoint  # a sweep has none: its trials do
    next_command = f"kineray promote {detail.name}" if has_checkpoint else "kineray runs"
    show(detail, "\n".join(lines), as_json=as_json or json_of_group, then=(next_command + at(folder),))
