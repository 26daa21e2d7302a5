"""CutMix."""

from typing import ClassVar

from kineray.config.fields import PositiveFloat
from kineray.config.recipe.base import RecipePiece


class CutmixConfig(RecipePiece, type="cutmix", builds="kineray.training.recipe.cutmix.Cutmix"):
    """Replaces a rectangle of all frames of a clip by that of another clip (Yun et al., arXiv 1905.04899).

    Targets are mixed by the area that is shown of each clip. The share of the area that stays is drawn from
    Beta(``alpha``, ``alpha``), before the rectangle is cut off at the border. If mixup is on as well, each
    batch-norm group gets one of the two, with equal probability.
    """

    order: ClassVar[int] = 10

    alpha: PositiveFloat = 1.0
