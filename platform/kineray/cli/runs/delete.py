"""``kineray runs delete``."""

import click

from kineray.cli.output import as_row, at, json_option, show


@click.command(name="delete")
@click.argument("run")
@click.option("--force", is_flag=True, help="Even if its record has no end, since its process was killed.")
@click.option("--storage", metavar="URI", help="Folder or s3:// prefix of all runs.")
@json_option
@click.pass_obj
def command(of_group: tuple[str, bool], run: str, force: bool, storage: str | None, as_json: bool) -> None:
    """Delete RUN (a name or an MLflow run id) with its checkpoints, and a sweep with its trials."""
    from kineray.tracking.edit import delete_run

    default_storage, json_of_group = of_group
    folder = storage or default_storage
    deleted = delete_run(run, storage=folder, force=force)
    text = f"deleted {deleted.name}"
    show(as_row(deleted), text, as_json=as_json or json_of_group, then=(f"kineray runs{at(folder)}",))


command.epilog = "Runs whose checkpoints are in the model registry are kept."
