"""Where a worker is, for another thread to see."""

from dataclasses import dataclass


@dataclass
class Whereabouts:
    """The ``step`` that a worker is in, counted from 1, and whether it ``waits`` for the others in it."""

    step: int = 0
    waits: bool = False
