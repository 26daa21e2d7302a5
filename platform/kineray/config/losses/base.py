"""What the configurations of all losses have in common."""

from typing import TYPE_CHECKING, ClassVar

from kineray.config.fields import Labels
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.tasks.losses import Loss


class LossSection(Variant, home="kineray.config.losses"):
    """Base of every loss: ``task.loss.type=<type> task.loss.<field>=...``.

    ``labels``: what it is for: clips of a ``single`` class, of ``multiple`` classes, or ``any``.
    """

    labels: ClassVar[Labels] = "single"

    def build(self) -> "Loss":
        """What computes it."""
        loss: Loss = self.implementation()(self)
        return loss
