"""The base of the configurations of all losses."""

from typing import TYPE_CHECKING, ClassVar

from kineray.config.fields import Labels
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.tasks.losses import Loss


class LossSection(Variant, home="kineray.config.losses"):
    """Base of every loss: ``task.loss.type=<type> task.loss.<field>=...``.

    ``labels``: which clips it is for: those of a ``single`` class, of ``multiple`` classes, or ``any``.
    """

    labels: ClassVar[Labels] = "single"

    def build(self) -> "Loss":
        """The function of logits and targets that computes the loss."""
        loss: Loss = self.implementation()(self)
        return loss
