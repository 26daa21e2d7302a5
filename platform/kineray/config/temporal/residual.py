"""A residual block of temporal convolutions over the frames' features."""

from kineray.config.domains import Choice
from kineray.config.fields import KernelSize, PositiveInt
from kineray.config.temporal.base import TemporalSection


class ResidualConfig(
    TemporalSection,
    type="residual",
    builds="kineray.models.temporal.residual.Residual",
    space={"width": Choice(64, 128, 256, 512, ordered=True), "kernel": Choice(3, 5, ordered=True)},
):
    """The frames' features plus two temporal convolutions of them, averaged over time.

    ``width``: channels between the two convolutions.
    """

    width: PositiveInt = 128
    kernel: KernelSize = 3
