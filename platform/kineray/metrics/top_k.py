"""Top-k accuracy."""

from typing import TYPE_CHECKING

from kineray.metrics.base import Scored
from kineray.metrics.ranking import label_ranks, shares_within

if TYPE_CHECKING:
    from kineray.config.metrics.top_k import TopKConfig


class TopK:
    """``top<k>``: share of the clips whose class is among the ``k`` best scores; see ``shares_within``."""

    def __init__(self, config: "TopKConfig") -> None:
        self._k = config.k

    def __call__(self, head: Scored) -> dict[str, float]:
        """{"top<k>": share} for every ``k`` that says something about this many classes."""
        return shares_within(label_ranks(head.scores_nc, head.labels), self._k, len(head.classes))
