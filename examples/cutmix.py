"""A technique of your own: CutMix of clips (Yun et al., arXiv 1905.04899; for videos, arXiv 2012.03457).

    kineray train experiments/slowfast.py --plugin examples/cutmix.py recipe.cutmix.alpha=1 --workers 2

A piece of a recipe sees one batch-norm group at a time and draws from that group's own random numbers, so the
weights are the same with any number of workers, and after a resume.
"""

import numpy as np
from torch import Tensor

import kineray


class CutmixConfig(kineray.RecipePiece, type="cutmix"):
    """``alpha``: the share of a clip that stays is drawn from Beta(``alpha``, ``alpha``)."""

    order = 10  # with mixup; label smoothing comes after it

    alpha: float = 1.0

    def build(self) -> kineray.Piece:
        """What does it."""
        return Cutmix(self)


class Cutmix(kineray.Piece):
    """Pastes a rectangle of all frames of another clip of the group, and mixes the targets alike."""

    soft_targets = True

    def __init__(self, config: CutmixConfig) -> None:
        self._alpha = config.alpha

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Float32 [G, C, T, H, W] and {head: [G, classes]}; partners are as many places apart for all."""
        group, height, width = len(clips_gcthw), *clips_gcthw.shape[-2:]
        if group == 1:
            return clips_gcthw, targets
        side = (1 - rng.beta(self._alpha, self._alpha)) ** 0.5
        distance = int(rng.integers(1, group))
        rows, columns = _part(height, side, rng), _part(width, side, rng)
        mixed_gcthw = clips_gcthw.clone()
        mixed_gcthw[..., rows, columns] = clips_gcthw.roll(distance, 0)[..., rows, columns]
        pasted = mixed_gcthw[0, 0, 0, rows, columns].numel() / (height * width)
        return mixed_gcthw, {
            head: of_head.lerp(of_head.roll(distance, 0), pasted) for head, of_head in targets.items()
        }


def _part(size: int, share: float, rng: np.random.Generator) -> slice:
    """A part of ``share`` of a side around a random centre, cut off at the border."""
    centre, half = int(rng.integers(size)), int(size * share / 2)
    return slice(max(centre - half, 0), centre + half)
