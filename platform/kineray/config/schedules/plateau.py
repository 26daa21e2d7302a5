"""A learning rate that decays when validation stops improving."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from kineray.config.fields import NonNegativeFloat, PositiveInt
from kineray.config.improvement import validations_since_best
from kineray.config.schedules.base import ScheduleSection


class PlateauConfig(ScheduleSection, type="plateau"):
    """The learning rate, multiplied by ``decay`` when validation stops improving.

    It decays after ``patience`` validations in a row, none of which raised the best score (0 to 1) by more
    than ``improvement``; then the count starts again. It decays at most ``decays`` times. Three decays by
    0.1 are VGG's recipe (Simonyan and Zisserman, arXiv 1409.1556, section 3.1).
    """

    decay: Annotated[float, Field(gt=0, le=1)] = 0.1
    decays: PositiveInt = 3
    patience: PositiveInt = 5
    improvement: NonNegativeFloat = 0.001

    def factor(self, epoch: float, epochs: int) -> float:
        """1: the epoch alone changes nothing."""
        return 1.0

    def factor_after(self, scores: Sequence[float]) -> float:
        """A power of ``decay``."""
        counts = validations_since_best(scores, self.improvement)
        decayed = sum(count > 0 and count % self.patience == 0 for count in counts)
        return float(self.decay ** min(decayed, self.decays))
