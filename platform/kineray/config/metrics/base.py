"""What the configurations of all metrics have in common."""

from typing import TYPE_CHECKING, ClassVar

from kineray.config.fields import Labels
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.metrics import Metric


class MetricSection(Variant, home="kineray.config.metrics"):
    """Base of every metric: ``task.metrics.<type>.<field>``. Validation and evaluation compute it alike.

    ``labels``: what it can score: clips of a ``single`` class, of ``multiple`` classes, or ``any``.
    ``heads``: those that it scores together, and then its values are called ``<type>/<name>``; it is left out
    where one of them does not exist, or where a head has the metric's own name. Empty: every head on its own,
    and its values are called ``<head>/<name>``.
    """

    labels: ClassVar[Labels] = "single"
    heads: ClassVar[tuple[str, ...]] = ()

    def build(self) -> "Metric":
        """What computes it."""
        metric: Metric = self.implementation()(self)
        return metric
