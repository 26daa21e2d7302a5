"""What all schedules of the learning rate have in common."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from kineray.config.fields import NonNegativeFloat
from kineray.config.variants import Variant
from kineray.errors import ConfigError


class ScheduleSection(Variant, home="kineray.config.schedules"):
    """Base of every schedule.

    The learning rate warms up linearly over ``warmup_epochs``, from ``warmup_start`` (a fraction of
    ``optim.lr``) to the value that the schedule has at that epoch.
    """

    warmup_epochs: NonNegativeFloat = 0.0
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        """The factor of ``optim.lr`` after ``epoch`` of ``epochs`` epochs, without warm-up.

        A subclass defines it, or names by ``builds`` a function of the section and these arguments.
        """
        factor: float = self.build(epoch, epochs)
        return factor

    @property
    def drops(self) -> tuple[float, ...]:
        """The epochs at which ``factor`` falls in a step, rising; none for a smooth schedule."""
        return ()

    def factor_after(self, scores: Sequence[float]) -> float:
        """A second factor, after validations with these scores (0 to 1, the oldest first).

        A subclass that follows the scores overrides it.
        """
        return 1.0

    def check(self, epochs: int) -> None:
        """Raise ConfigError, with its key, if the schedule does not fit ``train.epochs``."""
        if self.warmup_epochs >= epochs and self.warmup_epochs > 0:
            raise ConfigError(
                f"not less than train.epochs={epochs}",
                code="out_of_range",
                key="schedule.warmup_epochs",
                value=f"{self.warmup_epochs:g}",
                remedy="give fewer epochs of warm-up, or 0",
            )
