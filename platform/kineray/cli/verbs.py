"""Verbs are discovered, not listed: every module of ``kineray.cli`` that defines ``command`` is one."""

import pkgutil
from importlib import import_module
from typing import Any

import click


class DefaultGroup(click.Group):
    """A group whose verb ``default`` need not be written, unless its first argument is another's name."""

    def __init__(self, *, default: str, **more: Any) -> None:
        super().__init__(**more)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert ``default`` before anything that is neither a verb nor a call for help."""
        named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or not args else [self.default, *args])


def add_verbs(group: click.Group, package: str) -> None:
    """Add the ``command`` of every module of ``package`` to ``group``."""
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        command = getattr(import_module(found.name), "command", None)
        if isinstance(command, click.Command):
            group.add_command(command)
