"""Multi-label classification."""

from typing import ClassVar, Literal

from kineray.config.fields import Labels
from kineray.config.losses.base import LossSection
from kineray.config.losses.binary_cross_entropy import BinaryCrossEntropyConfig
from kineray.config.metrics.base import MetricSection
from kineray.config.metrics.map import MapConfig
from kineray.config.tasks.base import TaskSection
from kineray.config.variants import Pieces


class MultiLabelConfig(TaskSection, type="multi_label", builds="kineray.tasks.multi_label.MultiLabel"):
    """A clip can have any number of classes for each head; probabilities are the sigmoid of each logit.

    ``aggregation``: how the views of a video are combined: by their mean, or by each class's highest
    probability. ``skip_empty``: whether clips without any class are left out of the metrics; otherwise they
    are negatives of every class. Results on Charades are published with ``max``, and its official evaluation
    skips empty clips.
    """

    labels: ClassVar[Labels] = "multiple"

    loss: LossSection = BinaryCrossEntropyConfig()
    metrics: Pieces[MetricSection] = Pieces(MapConfig())
    score: str = "map"
    aggregation: Literal["mean", "max"] = "mean"
    skip_empty: bool = False
