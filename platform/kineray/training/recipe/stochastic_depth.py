"""Stochastic depth (Huang et al., arXiv 1603.09382)."""

from torch import nn

from kineray.config.recipe.stochastic_depth import StochasticDepthConfig
from kineray.errors import ConfigError
from kineray.models import set_stochastic_depth
from kineray.training.recipe.base import Piece


class StochasticDepth(Piece):
    """Lets clips skip residual blocks of the model that is trained; which ones depends on the clip alone."""

    def __init__(self, config: StochasticDepthConfig) -> None:
        self._rate = config.rate

    def begin(self, model: nn.Module) -> None:
        """Set the rates of all blocks. Raises ConfigError for a model without any."""
        if not set_stochastic_depth(model, self._rate):
            raise ConfigError(
                "the model has no residual blocks that can be skipped",
                code="no_residual_blocks",
                key="recipe.stochastic_depth",
                remedy="set recipe.stochastic_depth=off, or choose another model.type",
            )
