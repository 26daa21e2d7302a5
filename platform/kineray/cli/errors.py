"""The library's errors in the terms of the command line: parameters become flags."""

import re

import click

from kineray.cli.verbs import DefaultGroup
from kineray.errors import KinerayError

_QUOTED = re.compile(r"`([^`]*)`")


def one_line(error: KinerayError, command: click.Command) -> str:
    """The message of ``error`` for the user of ``command``.

    The library writes parameters between backticks: ```micro_batch``` becomes ``--micro-batch`` if the
    command has this option, ```manifest``` becomes ``MANIFEST`` if it has this argument, and anything else
    just loses its backticks. If the ``key`` of the error is a parameter, the message begins with its flag.
    """
    words = _words(command)
    text = str(error)
    if error.key in words:
        text = words[error.key] + text.removeprefix(error.key)
    text = _QUOTED.sub(lambda quoted: words.get(quoted[1], quoted[1]), text)
    return " ".join(text.split())


def called(command: click.Command, words: tuple[str, ...]) -> click.Command:
    """The command that ``words`` call: that of ``data import`` for ``data import FOLDER``."""
    for word in words:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    return command.commands[command.default] if isinstance(command, DefaultGroup) else command


def _words(command: click.Command) -> dict[str, str]:
    """For each parameter, how it is written on the command line."""
    words = {}
    for parameter in command.get_params(click.Context(command)):
        name = parameter.name or ""
        if isinstance(parameter, click.Argument):
            words[name] = name.upper()
        for flag in parameter.opts:
            if flag.startswith("--"):
                words[name] = words[flag.removeprefix("--").replace("-", "_")] = flag
    return words
