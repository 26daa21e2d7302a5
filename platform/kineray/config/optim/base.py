"""What the configurations of all optimizers have in common."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kineray.config.fields import NonNegativeFloat, PositiveFloat, PositiveInt
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from torch.optim import Optimizer


class OptimSection(Variant, home="kineray.config.optim"):
    """Base of every optimizer's configuration. ``lr``: the learning rate that the schedule starts from."""

    lr: PositiveFloat = 0.1

    def build(self, groups: Iterable[dict[str, Any]]) -> "Optimizer":
        """An optimizer for torch's parameter groups, whose learning rate is set at every step."""
        optimizer: Optimizer = self.implementation()(self, groups)
        return optimizer

    def scale(self, global_batch: int) -> float:
        """The factor of the learning rate for a global batch."""
        return 1.0

    def decay(self) -> float:
        """Weight decay of all parameters except those of batch norms: the field ``weight_decay``, or 0."""
        decay: float = getattr(self, "weight_decay", 0.0)
        return decay


class BatchScaledOptimSection(OptimSection):
    """Base of optimizers whose learning rate is scaled with the batch.

    ``lr`` holds for ``reference_batch`` clips and is scaled linearly with the global batch (Goyal et al.,
    arXiv 1706.02677). ``weight_decay``: of all parameters except those of batch norms.
    """

    reference_batch: PositiveInt = 64
    weight_decay: NonNegativeFloat = 0.0

    def scale(self, global_batch: int) -> float:
        """Linear in the global batch."""
        return global_batch / self.reference_batch
