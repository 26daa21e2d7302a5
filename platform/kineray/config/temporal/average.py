"""The average of the frames' features."""

from kineray.config.temporal.base import TemporalSection


class AverageConfig(TemporalSection, type="average", builds="kineray.models.temporal.average.Average"):
    """The mean of the frames' features; ``z_norm``: each frame's are first brought to mean 0, variance 1."""

    z_norm: bool = False
