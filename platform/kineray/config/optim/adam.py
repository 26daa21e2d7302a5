"""Adam."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.domains import LogUniform
from kineray.config.fields import PositiveFloat, Probability
from kineray.config.optim.base import BatchScaledOptimSection

if TYPE_CHECKING:
    from torch.optim import Optimizer


class AdamConfig(BatchScaledOptimSection, type="adam", space={"lr": LogUniform(1e-4, 1e-2)}):
    """Adam (Kingma and Ba, arXiv 1412.6980); the learning rate is scaled as for SGD.

    Weight decay is added to the gradients, so Adam divides it by their size as well: ``adamw`` does not.
    """

    lr: PositiveFloat = 1e-3
    beta1: Probability = 0.9
    beta2: Probability = 0.999

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """torch's Adam."""
        from torch.optim import Adam

        return Adam(groups, lr=0.0, betas=(self.beta1, self.beta2))
