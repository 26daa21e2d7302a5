"""Mean average precision."""

from typing import ClassVar

from kineray.config.fields import Labels
from kineray.config.metrics.base import MetricSection


class MapConfig(MetricSection, type="map", builds="kineray.metrics.map.MeanAveragePrecision"):
    """Mean average precision over the classes that occur; every class has the same weight."""

    labels: ClassVar[Labels] = "multiple"
