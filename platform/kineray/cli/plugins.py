"""For commands that can use a user's own variants: ``--plugin``, and a help text that lists all variants."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kineray.cli.errors import called
from kineray.cli.verbs import add_verbs

if TYPE_CHECKING:
    from kineray.config import Plugin


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


def plugins_to_repeat(command_line: str) -> list[str]:
    """The plug-ins of this command that ``command_line``, which it suggests, has to name too."""
    root = click.Group()
    add_verbs(root, __package__)
    program, *words = command_line.split()
    command = called(root, tuple(words))
    takes_plugins = "plugins" in {parameter.name for parameter in command.params}
    if program != "kineray" or "--help" in words or not takes_plugins:
        return []
    named = {str(Path(word).absolute()) for word in words}
    return [plugin.reference for plugin in _to_name() if plugin.path not in named]


def _to_name() -> list["Plugin"]:
    """The plug-ins that declare parts of experiments, but for those that are found without being named."""
    from kineray.config import load_plugins, loaded_plugins, variants
    from kineray.config.tree import families_by_key

    if not loaded_plugins():
        return []
    anyway = load_plugins()
    modules = {cls.__module__ for family in families_by_key().values() for cls in variants(family).values()}
    files = {Path(getattr(sys.modules[name], "__file__", None) or "").absolute() for name in modules}
    return [plugin for plugin in loaded_plugins() if plugin not in anyway and Path(plugin.path) in files]


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
