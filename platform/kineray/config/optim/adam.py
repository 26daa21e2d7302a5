"""Adam."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.fields import PositiveFloat, Probability
from kineray.config.optim.base import BatchScaledOptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamConfig(BatchScaledOptimSection, type="adam"):
    """Adam with decoupled weight decay (AdamW); the learning rate is scaled as for SGD."""

    lr: PositiveFloat = 1e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.999

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's AdamW."""
        from torch.optim import AdamW

        return AdamW(groups, lr=0.0, betas=(self.beta1, self.beta2))
