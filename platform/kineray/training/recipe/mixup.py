"""Mixup (Zhang et al., arXiv 1710.09412)."""

import numpy as np
import torch
from torch import Tensor

from kineray.config.recipe.mixup import MixupConfig
from kineray.training.recipe.base import Group, Piece


class Mixup(Piece):
    """Mixes every clip of a group, and its targets, with another clip of the group, all in one proportion.

    A clip's partner is a number of places further on that is drawn from 1 to G - 1 for the whole group: any
    two clips may meet, since the samples of a group are in random order, and no clip is mixed with itself.
    """

    soft_targets = True
    one_of = "mixing"

    def __init__(self, config: MixupConfig) -> None:
        self._alpha = config.alpha

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> Group:
        """``share`` of each clip plus 1 - ``share`` of its partner."""
        size = len(clips_gcthw)
        if size == 1:
            return clips_gcthw, targets
        share = float(rng.beta(self._alpha, self._alpha))
        distance = int(rng.integers(1, size))

        def mixed(values: Tensor) -> Tensor:
            return torch.lerp(values, values.roll(distance, 0), 1 - share)

        return mixed(clips_gcthw), {head: mixed(of_head) for head, of_head in targets.items()}
