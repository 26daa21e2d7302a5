"""A plug-in that writes down when each step of a run ended: ``recipe.clock.path=FILE``."""

import json
import resource
import time
from pathlib import Path
from typing import Any

import kineray


class ClockConfig(kineray.RecipePiece, type="clock"):
    """Appends a line to ``path`` after each step of each worker."""

    path: str

    def build(self) -> "Clock":
        """The piece."""
        return Clock(self)


class Clock(kineray.Piece):
    """Writes with one call for a line, which other processes that append to the file do not break."""

    def __init__(self, config: ClockConfig) -> None:
        self._path = Path(config.path)

    def after_step(self, model: Any, step: Any) -> None:
        """Note the time, and the largest memory that the process has had."""
        write_line(self._path, step.index)


def write_line(path: Path, step: int) -> None:
    """Append the ``step``, the time and the process's largest memory in MiB."""
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with path.open("a", buffering=1) as file:
        file.write(json.dumps({"step": step, "time": time.time(), "peak_mib": peak_mib}) + "\n")
