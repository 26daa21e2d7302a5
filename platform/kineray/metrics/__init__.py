"""Metrics of predictions, in NumPy: one implementation of each, for validation and evaluation alike.

Scores are float [N, C], one row per clip; a row of NaN is a clip without a prediction (its video cannot be
decoded), which counts as wrong. Labels are int [N] if a clip has one class, or [N, C] of 0 and 1 if it can
have several.

A metric is one file here and a configuration in ``config/metrics``; no other code knows it. A user's metric
is a class in a plug-in:

    class CalibrationConfig(kineray.MetricSection, type="calibration"):
        bins: int = 15

        def build(self):
            return lambda head: {"ece": calibration_error(head.scores_nc, head.labels, self.bins)}

``task.metrics.calibration=on`` selects it, and its value is named ``<head>/ece``.
"""

from kineray.metrics.action import pair_ranks
from kineray.metrics.base import Metric, Scored
from kineray.metrics.map import average_precision
from kineray.metrics.ranking import (
    label_ranks,
    mean_class_accuracy,
    per_class_accuracy,
    share_within,
    shares_within,
    top_k_accuracy,
)

__all__ = [
    "Metric",
    "Scored",
    "average_precision",
    "label_ranks",
    "mean_class_accuracy",
    "pair_ranks",
    "per_class_accuracy",
    "share_within",
    "shares_within",
    "top_k_accuracy",
]
