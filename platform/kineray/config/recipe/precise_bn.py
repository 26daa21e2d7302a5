"""Precise batch-norm statistics."""

from kineray.config.fields import PositiveInt
from kineray.config.recipe.base import RecipePiece


class PreciseBnConfig(RecipePiece, type="precise_bn", builds="kineray.training.recipe.precise_bn.PreciseBn"):
    """Batch norms validate with the statistics of many clips (Wu and Johnson, arXiv 2105.07576, section 3).

    Before a validation, the running averages of mean and variance, to which every earlier state of the
    network has contributed, are replaced by those of the first ``batches`` global batches of the next epoch
    (of all its batches, if it has fewer), over all workers. The clips are augmented as in training, but
    neither mixed nor smoothed. With ``recipe.ema`` they are the statistics of the averaged weights. It costs
    forward passes only, but 200 batches of 1024 clips are most of an epoch of Kinetics-400: PySlowFast,
    whose number that is, validates every ten epochs (``train.eval_every_epochs``).
    """

    batches: PositiveInt = 200

    @property
    def batches_before_validation(self) -> int:
        """All that there are."""
        return self.batches
