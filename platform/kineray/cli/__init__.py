"""The command line: verbs parse, call one function, and print. Imports here stay light."""

from kineray.cli.app import main, run

__all__ = ["main", "run"]
