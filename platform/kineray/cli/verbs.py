"""Verbs are discovered, not listed: every module of ``kineray.cli`` that defines ``command`` is one."""

import pkgutil
from importlib import import_module

import click


def add_verbs(group: click.Group, package: str) -> None:
    """Add the ``command`` of every module of ``package`` to ``group``."""
    for found in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        command = getattr(import_module(found.name), "command", None)
        if isinstance(command, click.Command):
            group.add_command(command)
