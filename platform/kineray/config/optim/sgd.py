"""Stochastic gradient descent."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.domains import LogUniform
from kineray.config.fields import NonNegativeFloat, Probability
from kineray.config.optim.base import BatchScaledOptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class SgdConfig(BatchScaledOptimSection, type="sgd", space={"lr": LogUniform(0.01, 1)}):
    """SGD with momentum; the learning rate is scaled linearly with the global batch."""

    momentum: Probability = 0.9
    nesterov: bool = True
    weight_decay: NonNegativeFloat = 1e-4

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's SGD."""
        from torch.optim import SGD

        # Without momentum Nesterov's look-ahead is the gradient itself; torch refuses the combination.
        return SGD(groups, lr=0.0, momentum=self.momentum, nesterov=self.nesterov and self.momentum > 0)
