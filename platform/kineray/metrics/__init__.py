"""Scores of predictions in NumPy: one implementation of each, for validation and evaluation alike.

``scores`` is float [N, C], one row per clip; a row of NaN is a clip without a prediction (its video cannot be
decoded), which counts as wrong. The classes of a clip are one index, int [N], or several, 0 or 1 [N, C].

A metric is one file here and its configuration, in ``config/metrics``; nothing else knows of it. The same
thing in a user's own file:

    class CalibrationConfig(kineray.MetricSection, type="calibration"):
        bins: int = 15

        def build(self):
            return lambda head: {"ece": calibration_error(head.scores_nc, head.labels, self.bins)}

It is computed where ``task.metrics.calibration=on``, and is then called ``<head>/ece``.
"""

from kineray.metrics.action import pair_ranks
from kineray.metrics.base import Metric, Scored
from kineray.metrics.map import average_precision
from kineray.metrics.ranking import (
    label_ranks,
    mean_class_accuracy,
    per_class_accuracy,
    share_within,
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
    "top_k_accuracy",
]
