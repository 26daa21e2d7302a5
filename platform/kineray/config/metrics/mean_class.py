"""Mean class accuracy."""

from kineray.config.metrics.base import MetricSection


class MeanClassConfig(MetricSection, type="mean_class", builds="kineray.metrics.mean_class.MeanClass"):
    """Mean of the top-1 accuracies of the classes that occur; every class has the same weight."""
