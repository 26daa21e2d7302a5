"""Gradient clipping."""

from kineray.config.fields import PositiveFloat
from kineray.config.recipe.base import RecipePiece


class ClipGradientsConfig(
    RecipePiece, type="clip_gradients", builds="kineray.training.recipe.clip_gradients.ClipGradients"
):
    """Scales the gradients of a step down if their norm over all parameters is above ``max_norm``.

    After Pascanu et al., arXiv 1211.5063; recurrent networks and TSN (with 20 to 40) need it.
    """

    max_norm: PositiveFloat = 1.0
