"""Mean class accuracy."""

from typing import TYPE_CHECKING

from kineray.metrics.base import Scored
from kineray.metrics.ranking import mean_class_accuracy

if TYPE_CHECKING:
    from kineray.config.metrics.mean_class import MeanClassConfig


class MeanClass:
    """``mean_class``: the mean of the top-1 accuracies of the classes that occur."""

    def __init__(self, _config: "MeanClassConfig") -> None:
        pass

    def __call__(self, head: Scored) -> dict[str, float]:
        """{"mean_class": accuracy}."""
        return {"mean_class": mean_class_accuracy(head.scores_nc, head.labels)}
