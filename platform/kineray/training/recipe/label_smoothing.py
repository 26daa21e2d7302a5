"""Label smoothing (Szegedy et al., arXiv 1512.00567, section 7)."""

import numpy as np
from torch import Tensor

from kineray.config.recipe.label_smoothing import LabelSmoothingConfig
from kineray.training.recipe.base import Group, Piece


class LabelSmoothing(Piece):
    """Takes a part of every target and spreads it evenly over all classes.

    The sum of a clip's targets does not change: 1 for a class, 0 for an unknown one.
    """

    soft_targets = True
    changes_clips = False

    def __init__(self, config: LabelSmoothingConfig) -> None:
        self._smoothing = config.smoothing

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> Group:
        """The unchanged clips, and smoothed targets."""
        return clips_gcthw, {head: self._smoothed(of_head) for head, of_head in targets.items()}

    def _smoothed(self, targets_gk: Tensor) -> Tensor:
        return targets_gk * (1 - self._smoothing) + self._smoothing * targets_gk.mean(1, keepdim=True)
