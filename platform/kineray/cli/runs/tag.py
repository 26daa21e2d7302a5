"""``kineray runs tag``."""

import click

from kineray.cli.output import at, json_option, show


@click.command(name="tag")
@click.argument("run")
@click.argument("tags", nargs=-1, required=True, metavar="KEY=VALUE...")
@click.option("--storage", metavar="URI", help="Folder or s3:// prefix of all runs.")
@json_option
@click.pass_obj
def command(
    of_group: tuple[str, bool], run: str, tags: tuple[str, ...], storage: str | None, as_json: bool
) -> None:
    """Tag RUN (a name or an MLflow run id); KEY= removes a tag. `kineray runs --tag KEY=VALUE` finds it."""
    from kineray.tracking.edit import tag_run

    default_storage, json_of_group = of_group
    folder = storage or default_storage
    for tag in tags:
        if not tag.partition("=")[1]:
            raise click.BadParameter(f"{tag} is not KEY=VALUE", param_hint="KEY=VALUE")
    parts = [tag.partition("=") for tag in tags]
    now = tag_run(run, {key: value or None for key, _, value in parts}, storage=folder)
    text = "\n".join(f"{key}={value}" for key, value in sorted(now.items())) or "no tags"
    show(
        {"tags": now}, text, as_json=as_json or json_of_group, then=(f"kineray runs show {run}{at(folder)}",)
    )
