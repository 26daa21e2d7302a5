"""The library's errors in the words of the command line: its parameters are flags here."""

import re

import click

from kineray.errors import KinerayError

_QUOTED = re.compile(r"`([^`]*)`")


def one_line(error: KinerayError, command: click.Command) -> str:
    """The message of ``error`` as the user of ``command`` reads it.

    The library writes parameters between backticks: ```micro_batch``` becomes ``--micro-batch`` where the
    command has such an option, ```manifest``` becomes ``MANIFEST`` where it has such an argument, and
    anything else just loses its backticks. An error about a parameter (its ``key``) begins with the flag.
    """
    words = _words(command)
    text = str(error)
    if error.key in words:
        text = words[error.key] + text.removeprefix(error.key)
    text = _QUOTED.sub(lambda quoted: words.get(quoted[1], quoted[1]), text)
    return " ".join(text.split())


def called(command: click.Command, words: tuple[str, ...]) -> click.Command:
    """The command that ``words`` call: ``data import`` of ``kineray data import FOLDER``."""
    for word in words:
        if isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    return command


def _words(command: click.Command) -> dict[str, str]:
    """Parameter -> how it is written on the command line."""
    words = {}
    for parameter in command.get_params(click.Context(command)):
        name = parameter.name or ""
        if isinstance(parameter, click.Argument):
            words[name] = name.upper()
        for flag in parameter.opts:
            if flag.startswith("--"):
                words[name] = words[flag.removeprefix("--").replace("-", "_")] = flag
    return words
