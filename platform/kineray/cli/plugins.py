"""The option ``--plugin`` of all commands that meet a user's own variants."""

from typing import Any

import click


def _load(_context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> tuple[str, ...]:
    from kineray.config import load_plugins

    load_plugins()
    if files:
        load_plugins(*files)
    return files


def plugin_option(command: Any) -> Any:
    """``--plugin FILE|MODULE``: declares its variants before the other options are read."""
    return click.option(
        "--plugin",
        "plugins",
        multiple=True,
        metavar="FILE|MODULE",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="A Python file or module with your own models, losses, ... (or KINERAY_PLUGINS).",
    )(command)
