"""A learning rate that decays in steps."""

import bisect
from typing import Annotated, Self

from pydantic import Field, model_validator

from kineray.config.fields import Floats
from kineray.config.schedules.base import ScheduleSection


class StepsConfig(ScheduleSection, type="steps"):
    """The learning rate, multiplied by ``decay`` at each of ``decay_epochs``."""

    decay_epochs: Floats = ()
    decay: Annotated[float, Field(gt=0, le=1)] = 0.1

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError("decay_epochs must ascend")
        return self

    @property
    def drops(self) -> tuple[float, ...]:
        """``decay_epochs``."""
        return self.decay_epochs

    def factor(self, epoch: float, epochs: int) -> float:
        """A power of ``decay``."""
        return float(self.decay ** bisect.bisect_right(self.decay_epochs, epoch))
