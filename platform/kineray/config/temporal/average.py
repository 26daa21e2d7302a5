"""The average of the frames' features."""

from kineray.config.domains import Choice
from kineray.config.fields import ZNorm
from kineray.config.temporal.base import TemporalSection


class AverageConfig(
    TemporalSection,
    type="average",
    builds="kineray.models.temporal.average.Average",
    space={"z_norm": Choice("none", "per_frame")},
):
    """The mean of the frames' features.

    ``z_norm``: how the features are first normalised to mean 0 and variance 1: per_dimension, each dimension
    over the training set; per_frame, each frame over its dimensions; none, not at all.
    """

    z_norm: ZNorm = "none"
