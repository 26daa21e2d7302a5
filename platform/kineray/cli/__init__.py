"""The command line. A verb is one file: options -> one public function -> its result -> text or JSON."""

from kineray.cli.app import main, run

__all__ = ["main", "run"]
