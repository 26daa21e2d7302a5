"""The base of the configurations of all metrics."""

from typing import TYPE_CHECKING, ClassVar

from kineray.config.fields import Labels
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from kineray.metrics import Metric


class MetricSection(Variant, home="kineray.config.metrics"):
    """Base of every metric: ``task.metrics.<type>.<field>``. Validation and evaluation compute it alike.

    ``labels``: which clips it can score: those of a ``single`` class, of ``multiple`` classes, or ``any``.
    ``heads``: the heads that it scores together. Its values are then named ``<type>/<name>``, and it is left
    out if one of the heads does not exist or a head is named like the metric. If empty, it scores each head
    separately, and its values are named ``<head>/<name>``.
    """

    labels: ClassVar[Labels] = "single"
    heads: ClassVar[tuple[str, ...]] = ()

    def build(self) -> "Metric":
        """The function of the heads' scores that computes the values."""
        metric: Metric = self.implementation()(self)
        return metric
