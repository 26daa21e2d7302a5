"""``kineray cache ls``."""

from typing import TYPE_CHECKING, Any

import click

from kineray.cli.output import json_option, show, table

if TYPE_CHECKING:
    from kineray.training.features.api import CachedSet

COLUMNS = ("key", "data", "clips", "network", "computed", "views", "shape", "dtype", "size")


def row_of(one: "CachedSet") -> dict[str, Any]:
    """A row of the table of features."""
    from kineray.sizes import size_text

    return {
        "key": one.key,
        "data": one.data,
        "clips": one.clips,
        "network": one.network,
        "computed": f"{one.computed} of {one.rows}",
        "views": one.views,
        "shape": " x ".join(map(str, one.shape)),
        "dtype": one.dtype,
        "size": size_text(one.bytes),
    }


@click.command(name="ls", short_help="List the features in the cache.")
@json_option
def command(as_json: bool) -> None:
    """List the features in the cache, which is in the folder KINERAY_CACHE."""
    from kineray import list_features

    found = list_features()
    text = table([row_of(one) for one in found], COLUMNS) if found else "no features"
    then = ("kineray cache verify", f"kineray cache rm {found[0].key}") if found else ()
    show({"features": [vars(one) for one in found]}, text, as_json=as_json, then=then)
