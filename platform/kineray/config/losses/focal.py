"""Focal loss."""

from kineray.config.fields import NonNegativeFloat
from kineray.config.losses.base import LossSection


class FocalConfig(LossSection, type="focal", builds="kineray.tasks.losses.focal.Focal"):
    """Cross-entropy of the softmax that counts less for clips that are classified well already.

    Lin et al., arXiv 1708.02002, equation 4. ``gamma``: how much less; 0 is cross-entropy.
    """

    gamma: NonNegativeFloat = 2.0
