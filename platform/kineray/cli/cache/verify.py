"""``kineray cache verify``."""

import dataclasses

import click

from kineray.cli.output import json_option, show
from kineray.cli.progress import Progress


@click.command(name="verify", short_help="Read features, and remove damaged files.")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@json_option
def command(keys: tuple[str, ...], as_json: bool) -> int:
    """Compare the features with these keys (default: all) with the checksums that were written with them.

    Exit code 1 if any are damaged; those are removed, and computed again by the next build or run.
    """
    from kineray import verify_features

    with Progress("files") as progress:
        found = verify_features(*keys, progress=progress)
    damaged = sum(len(one.damaged) for one in found)
    lines = [
        f"{one.key}: {len(one.damaged)} of {one.shards} files damaged, removed"
        for one in found
        if one.damaged
    ]
    lines.append(f"{sum(one.shards for one in found)} files, {damaged} damaged")
    show({"features": [dataclasses.asdict(one) for one in found]}, "\n".join(lines), as_json=as_json)
    return 1 if damaged else 0
