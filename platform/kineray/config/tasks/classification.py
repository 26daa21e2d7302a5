"""Classification."""

from kineray.config.metrics.action import ActionConfig
from kineray.config.metrics.base import MetricSection
from kineray.config.metrics.mean_class import MeanClassConfig
from kineray.config.metrics.top_k import TopKConfig
from kineray.config.tasks.base import TaskSection
from kineray.config.variants import Pieces


class ClassificationConfig(
    TaskSection, type="classification", builds="kineray.tasks.classification.Classification"
):
    """Every clip has one class for each head; probabilities are the softmax of the logits."""

    metrics: Pieces[MetricSection] = Pieces(TopKConfig(), MeanClassConfig(), ActionConfig())
    score: str = "top1"
