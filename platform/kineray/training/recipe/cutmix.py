"""CutMix (Yun et al., arXiv 1905.04899)."""

import math

import numpy as np
from torch import Tensor

from kineray.config.recipe.cutmix import CutmixConfig
from kineray.training.recipe.base import Group, Piece


class Cutmix(Piece):
    """Pastes a rectangle of another clip of the group into every clip, the same in all frames and clips.

    A clip's partner is found as by ``Mixup``. The share of a clip in its targets is that of its pixels.
    """

    soft_targets = True
    one_of = "mixing"

    def __init__(self, config: CutmixConfig) -> None:
        self._alpha = config.alpha

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> Group:
        """Clips with a rectangle of their partner, and targets mixed by area."""
        size, height, width = len(clips_gcthw), *clips_gcthw.shape[-2:]
        if size == 1:
            return clips_gcthw, targets
        side = math.sqrt(1 - rng.beta(self._alpha, self._alpha))  # as a share of the clip's
        distance = int(rng.integers(1, size))
        rows, columns = _extent(height, side, rng), _extent(width, side, rng)
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
        mixed_gcthw = clips_gcthw.clone()
        mixed_gcthw[..., rows, columns] = clips_gcthw.roll(distance, 0)[..., rows, columns]
        return mixed_gcthw, {
            head: of_head.lerp(of_head.roll(distance, 0), pasted) for head, of_head in targets.items()
        }


def _extent(length: int, share: float, rng: np.random.Generator) -> slice:
    """``share`` of a side, around a random centre, without what lies beyond the border."""
    centre, half = int(rng.integers(length)), int(length * share) // 2
    return slice(max(centre - half, 0), min(centre + half, length))
