"""A residual block of temporal convolutions over the frames' features."""

from kineray.config.fields import KernelSize, PositiveInt
from kineray.config.temporal.base import TemporalSection


class ResidualConfig(TemporalSection, type="residual", builds="kineray.models.temporal.residual.Residual"):
    """The frames' features plus two temporal convolutions of them, averaged over time.

    ``width``: channels between the two convolutions.
    """

    width: PositiveInt = 128
    kernel: KernelSize = 3
