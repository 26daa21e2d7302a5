"""Label smoothing."""

from typing import ClassVar

from kineray.config.fields import Probability
from kineray.config.recipe.base import RecipePiece


class LabelSmoothingConfig(
    RecipePiece, type="label_smoothing", builds="kineray.training.recipe.label_smoothing.LabelSmoothing"
):
    """``smoothing`` of every target is spread over all classes (Szegedy et al., arXiv 1512.00567)."""

    order: ClassVar[int] = 20  # after mixup: of all the classes that a clip was mixed from

    smoothing: Probability = 0.1
