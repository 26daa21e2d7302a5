"""A GRU over the frames."""

from kineray.config.domains import Choice
from kineray.config.fields import PositiveInt, ZNorm
from kineray.config.temporal.base import TemporalSection


class GruConfig(
    TemporalSection,
    type="gru",
    builds="kineray.models.temporal.recurrent.Gru",
    space={"units": Choice(32, 64, 128, 256, 512, ordered=True)},
):
    """The last state of a GRU with ``units`` units (arXiv 1406.1078); ``z_norm``: as in ``AverageConfig``."""

    units: PositiveInt = 128
    z_norm: ZNorm = "none"
