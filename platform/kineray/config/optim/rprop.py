"""Rprop."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from kineray.config.fields import PositiveFloat
from kineray.config.optim.base import OptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class RpropConfig(OptimSection, type="rprop"):
    """Rprop (Riedmiller and Braun, 1993), for batches that are a large part of the data.

    Every weight has a step size, which starts at ``lr`` and then follows only the signs of its gradients: it
    is multiplied by ``grow`` if the sign stays and by ``shrink`` if it changes. So the schedule decides only
    the first step, and the learning rate is not scaled with the batch.
    """

    lr: PositiveFloat = 1e-3
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
    grow: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 1.2

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's Rprop."""
        from torch.optim import Rprop

        return Rprop(groups, lr=0.0, etas=(self.shrink, self.grow))
