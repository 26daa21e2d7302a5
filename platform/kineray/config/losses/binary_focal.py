"""Focal loss of every class."""

from typing import ClassVar

from kineray.config.fields import Labels, NonNegativeFloat, Probability
from kineray.config.losses.base import LossSection


class BinaryFocalConfig(
    LossSection, type="binary_focal", builds="kineray.tasks.losses.binary_focal.BinaryFocal"
):
    """Binary cross-entropy that counts less for classes that are predicted well already.

    Lin et al., arXiv 1708.02002, equation 5, averaged over the classes. ``gamma``: how much less; 0 is binary
    cross-entropy. ``alpha``: weight of the classes that a clip has; the others have 1 - ``alpha``; none: both
    have a weight of 1.
    """

    labels: ClassVar[Labels] = "multiple"

    gamma: NonNegativeFloat = 2.0
    alpha: Probability | None = 0.25
