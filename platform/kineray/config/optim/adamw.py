"""Adam with decoupled weight decay."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.domains import LogUniform
from kineray.config.fields import NonNegativeFloat, PositiveFloat, Probability
from kineray.config.optim.base import BatchScaledOptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamWConfig(BatchScaledOptimSection, type="adamw", space={"lr": LogUniform(1e-4, 1e-2)}):
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101).

    At every step all weights shrink by the learning rate times ``weight_decay``, whatever their gradients.
    The learning rate is scaled as for SGD.
    """

    lr: PositiveFloat = 1e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.999
    weight_decay: NonNegativeFloat = 0.01

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's AdamW."""
        from torch.optim import AdamW

        return AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2))
