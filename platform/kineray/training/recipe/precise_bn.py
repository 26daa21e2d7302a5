"""Precise batch-norm statistics (Wu and Johnson, arXiv 2105.07576, section 3)."""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from kineray.config.recipe.precise_bn import PreciseBnConfig
from kineray.errors import ConfigError
from kineray.models import GhostBatchNorm, PopulationStatistics
from kineray.training.recipe.base import Piece


class PreciseBn(Piece):
    """Replaces the running statistics before every validation."""

    def __init__(self, config: PreciseBnConfig) -> None:
        """Nothing has to be kept: ``config`` says in the plan how many batches there are."""

    def begin(self, model: nn.Module) -> None:
        """Raise ConfigError for a model without any batch norm that is trained."""
        if not any(isinstance(layer, GhostBatchNorm) and layer.training for layer in model.modules()):
            raise ConfigError(
                "the model has no batch norm whose statistics change",
                code="no_batch_norm",
                key="recipe.precise_bn",
                remedy="set recipe.precise_bn=off",
            )

    def before_validation(
        self, model: nn.Module, passes: Iterator[None], sum_: Callable[[Tensor], None]
    ) -> None:
        """Collect the statistics of every group of the passes, and replace the running ones by them."""
        model.train()
        statistics = PopulationStatistics(model)
        for _ in passes:
            statistics.add()
        statistics.commit(sum_)
