"""Cosines with warm restarts."""

import math

from kineray.config.fields import PositiveInt, Probability
from kineray.config.schedules.base import ScheduleSection


class WarmRestartsConfig(ScheduleSection, type="warm_restarts"):
    """SGDR (Loshchilov and Hutter, arXiv 1608.03983, equation 5): cosines, one after the other.

    In each cycle the learning rate falls from its full value to ``minimum`` of it along half a period of a
    cosine; then it starts again. The first cycle has ``cycle_epochs`` epochs, and each further one is
    ``multiplier`` times as long as the one before it. Choose ``train.epochs`` so that the last one ends with
    the run: 10, 30, 70, 150, ... with the defaults, which are the paper's.
    """

    cycle_epochs: PositiveInt = 10
    multiplier: PositiveInt = 2
    minimum: Probability = 0.0

    def factor(self, epoch: float, epochs: int) -> float:
        """1 at the start of every cycle, ``minimum`` just before its end."""
        length = self.cycle_epochs
        while epoch >= length:
            epoch -= length
            length *= self.multiplier
        return self.minimum + (1 - self.minimum) * 0.5 * (1 + math.cos(math.pi * epoch / length))
