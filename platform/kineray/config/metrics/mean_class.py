"""Mean class accuracy."""

from kineray.config.metrics.base import MetricSection


class MeanClassConfig(MetricSection, type="mean_class", builds="kineray.metrics.mean_class.MeanClass"):
    """Top-1 accuracy of each class that occurs, averaged: every class has the same weight."""
