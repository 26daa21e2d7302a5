"""For commands that can use a user's own variants: ``--plugin``, and a help text that lists all variants."""

from typing import Any

import click


def _load(_context: click.Context, _option: click.Parameter, files: tuple[str, ...]) -> tuple[str, ...]:
    from kineray.config import load_plugins

    load_plugins()
    if files:
        load_plugins(*files)
    return files


def plugin_option(command: Any) -> Any:
    """``--plugin FILE|MODULE``: loads it before the other options are read."""
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


class ExperimentCommand(click.Command):
    """A command that takes KEY=VALUE: its help ends with the keys that select variants."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List each such key with its variants, including those of plug-ins named before --help."""
        from kineray.config import variants
        from kineray.config.tree import families_by_key

        with formatter.section("Variants (KEY=VALUE)"):
            rows = [
                (key.replace(".*", ".NAME=on"), ", ".join(known))
                for key, family in families_by_key().items()
                if (known := variants(family))
            ]
            formatter.write_dl(rows)
