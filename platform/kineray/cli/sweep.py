"""``kineray sweep``."""

from kineray.cli.train import sweep

command = sweep
