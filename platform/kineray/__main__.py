"""``python -m kineray``."""

from kineray.cli import run

run()
