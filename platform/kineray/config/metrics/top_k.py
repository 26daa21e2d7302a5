"""Top-k accuracy."""

from typing import ClassVar

from kineray.config.fields import PositiveInts
from kineray.config.metrics.base import MetricSection


class TopKConfig(MetricSection, type="top_k", builds="kineray.metrics.top_k.TopK"):
    """Share of the clips whose class is among the ``k`` best scores, for every ``k``."""

    order: ClassVar[int] = -1
    k: PositiveInts = (1, 3, 5)
