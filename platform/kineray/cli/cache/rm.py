"""``kineray cache rm``."""

import dataclasses

import click

from kineray.cli.output import json_option, show


@click.command(name="rm", short_help="Remove features from the cache.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--all", "take_all", is_flag=True, help="Remove all.")
@json_option
def command(keys: tuple[str, ...], take_all: bool, as_json: bool) -> None:
    """Remove the features with these keys (`kineray cache ls`); the beginning of a key is enough."""
    from kineray import delete_features, list_features

    if bool(keys) is take_all:
        raise click.UsageError("name the KEY of features, or give --all")
    removed = delete_features(*(keys or [one.key for one in list_features()]))
    text = "\n".join(f"removed {one.key}" for one in removed) or "no features"
    show({"removed": [dataclasses.asdict(one) for one in removed]}, text, as_json=as_json)
