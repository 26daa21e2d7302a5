"""A technique of your own: clips that end as another clip (temporal VideoMix, Yun et al., arXiv 2012.03457).

    kineray train experiments/slowfast.py --plugin examples/frame_mix.py recipe.frame_mix.alpha=1 --workers 2

A piece of a recipe sees one batch-norm group at a time and draws from that group's own random numbers, so the
weights are the same with any number of workers, and after a resume.
"""

import numpy as np
from torch import Tensor

import kineray


class FrameMixConfig(kineray.RecipePiece, type="frame_mix"):
    """``alpha``: the share of a clip that stays is drawn from Beta(``alpha``, ``alpha``)."""

    order = 10  # with mixup, with which it takes turns; label smoothing comes after it

    alpha: float = 1.0

    def build(self) -> kineray.Piece:
        """What does it."""
        return FrameMix(self)


class FrameMix(kineray.Piece):
    """Takes the last frames of every clip from another clip of the group, and mixes the targets alike."""

    soft_targets = True
    one_of = "mixing"

    def __init__(self, config: FrameMixConfig) -> None:
        self._alpha = config.alpha

    def transform_group(
        self, clips_gcthw: Tensor, targets: dict[str, Tensor], rng: np.random.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Float32 [G, C, T, H, W] and {head: [G, classes]}; partners are as many places apart for all."""
        group, frames = len(clips_gcthw), clips_gcthw.shape[2]
        if group == 1:
            return clips_gcthw, targets
        kept = round(frames * rng.beta(self._alpha, self._alpha))
        distance = int(rng.integers(1, group))
        mixed_gcthw = clips_gcthw.clone()
        mixed_gcthw[:, :, kept:] = clips_gcthw.roll(distance, 0)[:, :, kept:]
        replaced = 1 - kept / frames
        return mixed_gcthw, {
            head: of_head.lerp(of_head.roll(distance, 0), replaced) for head, of_head in targets.items()
        }
