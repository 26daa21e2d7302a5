"""Top-k accuracy."""

from typing import ClassVar

from kineray.config.fields import PositiveInts
from kineray.config.metrics.base import MetricSection


class TopKConfig(MetricSection, type="top_k", builds="kineray.metrics.top_k.TopK"):
    """Share of the clips whose class is among the ``k`` best scores, for every ``k``.

    A ``k`` above 1 that is more than half of the classes is left out: guessing would reach 50 % and more.
    """

    order: ClassVar[int] = -1
    k: PositiveInts = (1, 3, 5)
