"""Classification."""

from kineray.config.fields import Balance
from kineray.config.metrics.action import ActionConfig
from kineray.config.metrics.base import MetricSection
from kineray.config.metrics.mean_class import MeanClassConfig
from kineray.config.metrics.top_k import TopKConfig
from kineray.config.tasks.base import TaskSection
from kineray.config.variants import Pieces


class ClassificationConfig(
    TaskSection, type="classification", builds="kineray.tasks.classification.Classification"
):
    """Every clip has one class for each head; probabilities are the softmax of the logits.

    ``class_weights``: how much a clip counts in the loss; none: all clips alike; sqrt: in inverse proportion
    to the square root of how often its class occurs in the training set; class: in inverse proportion to
    that. The weights have a mean of 1 over the training set, whatever the loss.
    """

    class_weights: Balance = "none"

    metrics: Pieces[MetricSection] = Pieces(TopKConfig(), MeanClassConfig(), ActionConfig())
    score: str = "top1"
