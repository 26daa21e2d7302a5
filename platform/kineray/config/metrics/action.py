"""Accuracy of actions."""

from typing import ClassVar

from kineray.config.fields import PositiveInts
from kineray.config.metrics.base import MetricSection


class ActionConfig(MetricSection, type="action", builds="kineray.metrics.action.Action"):
    """Share of the clips whose (verb, noun) pair is among the ``k`` best pairs, for every ``k``.

    The score of a pair is the product of its two probabilities, as in the challenges of EPIC-KITCHENS. A
    ``k`` above 1 that is more than half of the pairs is left out.
    """

    heads: ClassVar[tuple[str, ...]] = ("verb", "noun")
    k: PositiveInts = (1, 3, 5)
