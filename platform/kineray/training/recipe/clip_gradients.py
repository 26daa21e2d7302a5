"""Gradient clipping (Pascanu et al., arXiv 1211.5063)."""

from collections.abc import Sequence

from torch import nn

from kineray.config.recipe.clip_gradients import ClipGradientsConfig
from kineray.training.recipe.base import Piece


class ClipGradients(Piece):
    """Scales all gradients of a step by one factor if their norm is too large."""

    def __init__(self, config: ClipGradientsConfig) -> None:
        self._max_norm = config.max_norm

    def transform_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Scale to a norm of at most ``max_norm``, over all parameters together."""
        nn.utils.clip_grad_norm_(parameters, self._max_norm)
