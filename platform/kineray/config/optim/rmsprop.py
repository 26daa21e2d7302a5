"""RMSprop."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.domains import LogUniform
from kineray.config.fields import PositiveFloat, Probability
from kineray.config.optim.base import BatchScaledOptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class RmspropConfig(BatchScaledOptimSection, type="rmsprop", space={"lr": LogUniform(1e-3, 0.1)}):
    """RMSprop (Tieleman and Hinton, 2012); the learning rate is scaled as for SGD.

    Gradients are divided by the root of a moving average of their squares plus ``eps``; every step keeps
    ``alpha`` of the average. TensorFlow, where Inception's recipes have an ``eps`` of 1, adds it inside the
    root.
    """

    lr: PositiveFloat = 0.01
    alpha: Probability = 0.99
    momentum: Probability = 0.0
    eps: PositiveFloat = 1e-8

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's RMSprop."""
        from torch.optim import RMSprop

        return RMSprop(groups, lr=0.0, alpha=self.alpha, momentum=self.momentum, eps=self.eps)
