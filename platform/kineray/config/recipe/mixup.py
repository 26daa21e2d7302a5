"""Mixup."""

from typing import ClassVar

from kineray.config.fields import PositiveFloat
from kineray.config.recipe.base import RecipePiece


class MixupConfig(RecipePiece, type="mixup", builds="kineray.training.recipe.mixup.Mixup"):
    """Clips and targets are mixed in pairs (Zhang et al., arXiv 1710.09412).

    The two shares are drawn from Beta(``alpha``, ``alpha``): small values leave most clips nearly as they
    are, 1 draws every share alike.
    """

    order: ClassVar[int] = 10

    alpha: PositiveFloat = 0.2
