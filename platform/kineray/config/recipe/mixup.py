"""Mixup."""

from typing import ClassVar

from kineray.config.fields import PositiveFloat
from kineray.config.recipe.base import RecipePiece


class MixupConfig(RecipePiece, type="mixup", builds="kineray.training.recipe.mixup.Mixup"):
    """Mixes clips and targets in pairs (Zhang et al., arXiv 1710.09412).

    The share of a clip is drawn from Beta(``alpha``, ``alpha``): a small ``alpha`` leaves most clips nearly
    unchanged, with 1 all shares are equally likely. If cutmix is on as well, each batch-norm group gets one
    of the two, with equal probability.
    """

    order: ClassVar[int] = 10

    alpha: PositiveFloat = 0.2
