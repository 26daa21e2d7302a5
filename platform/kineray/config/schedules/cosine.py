"""A half-period cosine."""

import math

from kineray.config.fields import NonNegativeFloat
from kineray.config.schedules.base import ScheduleSection


class CosineConfig(ScheduleSection, type="cosine"):
    """From the learning rate to 0 along half a period of a cosine (Loshchilov & Hutter, arXiv 1608.03983).

    The warm-up is SlowFast's.
    """

    warmup_epochs: NonNegativeFloat = 34.0

    def factor(self, epoch: float, epochs: int) -> float:
        """1 at the start, 0 at the end."""
        return 0.5 * (math.cos(math.pi * epoch / epochs) + 1)
