"""What a metric is."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Scored(NamedTuple):
    """Scores of one head and the classes that are right, of the clips for which these are known.

    ``scores_nc``: float [N, C], the probabilities that a clip is given, averaged over its views; a row of NaN
    where its video cannot be decoded. ``labels``: int64 [N], or where a clip can have several classes
    float32 [N, C], 0 or 1. N > 0. ``classes``: names of the C classes.
    """

    scores_nc: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Metric(Protocol):
    """Scores of one head, or of the several that a ``MetricSection`` names in ``heads``, in their order."""

    def __call__(self, *heads: Scored) -> Mapping[str, float]:
        """{name: value}, such as {"top1": 0.8}. A value that cannot be computed is left out."""
        ...
