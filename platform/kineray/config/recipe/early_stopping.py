"""The end of a run whose validation has stopped improving."""

from collections.abc import Sequence

from kineray.config.fields import NonNegativeFloat, PositiveInt
from kineray.config.improvement import validations_since_best
from kineray.config.recipe.base import RecipePiece


class EarlyStoppingConfig(RecipePiece, type="early_stopping", builds="kineray.training.recipe.base.Piece"):
    """The run ends, finished, when validation stops improving (Prechelt, 1998).

    That is after ``patience`` validations in a row, none of which raised the best score (0 to 1) by more
    than ``improvement``. The learning rate still follows ``train.epochs``.
    """

    patience: PositiveInt = 10
    improvement: NonNegativeFloat = 0.001

    def stops(self, scores: Sequence[float]) -> bool:
        """Whether the last ``patience`` scores brought nothing."""
        counts = validations_since_best(scores, self.improvement)
        return bool(counts) and counts[-1] >= self.patience
