"""The interface of a metric."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Scored(NamedTuple):
    """Scores and labels of one head, for the clips whose labels are known.

    ``scores_nc``: float [N, C], the probabilities of each clip, averaged over its views; a row of NaN if its
    video cannot be decoded. ``labels``: int64 [N], or float32 [N, C] of 0 and 1 if a clip can have several
    classes. N > 0. ``classes``: names of the C classes.
    """

    scores_nc: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Metric(Protocol):
    """A function of one head, or of those that its ``MetricSection`` names in ``heads``, in that order."""

    def __call__(self, *heads: Scored) -> Mapping[str, float]:
        """{name: value}, such as {"top1": 0.8}, without values that cannot be computed."""
        ...
