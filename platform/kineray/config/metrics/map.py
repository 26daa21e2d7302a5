"""Mean average precision."""

from typing import ClassVar

from kineray.config.fields import Labels
from kineray.config.metrics.base import MetricSection


class MapConfig(MetricSection, type="map", builds="kineray.metrics.map.MeanAveragePrecision"):
    """Average precision of each class that any clip has, averaged: every class has the same weight."""

    labels: ClassVar[Labels] = "multiple"
