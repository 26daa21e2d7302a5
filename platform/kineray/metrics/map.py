"""Mean average precision, for clips that can have several classes each."""

from typing import TYPE_CHECKING

import numpy as np

from kineray.metrics.base import Scored

if TYPE_CHECKING:
    from kineray.config.metrics.map import MapConfig


class MeanAveragePrecision:
    """``map``: the mean ``average_precision`` of the classes that occur; ``map_classes``: their number."""

    def __init__(self, _config: "MapConfig") -> None:
        pass

    def __call__(self, head: Scored) -> dict[str, float]:
        """{"map": mean, "map_classes": number}; empty if no clip has any class."""
        if not head.labels.any():
            return {}
        averages_c = average_precision(head.scores_nc, head.labels)
        counted = np.count_nonzero(~np.isnan(averages_c))
        return {"map": float(np.nanmean(averages_c)), "map_classes": float(counted)}


def average_precision(scores_nc: np.ndarray, present_nc: np.ndarray) -> np.ndarray:
    """Average precision of every class: float64 [C], NaN for a class that no clip has.

    The clips are ranked by their score for the class. The average precision is the mean, over the clips
    that have the class, of the precision down to that clip. It is not interpolated, as in the evaluation of
    Charades and in scikit-learn. Clips with equal scores are taken together, so their order does not matter.
    A clip without a prediction (NaN) is never retrieved: if it has the class, its precision is 0.
    ``present_nc``: 1 if the clip has the class, else 0. Raises ValueError for other values or shapes.

    >>> scores = np.array([[0.9, 0.5, 0.1], [0.8, 0.5, 0.1], [0.7, 0.5, 0.1], [np.nan] * 3])
    >>> average_precision(scores, np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]])).round(3).tolist()
    [0.833, 0.167, nan]
    """
    if scores_nc.ndim != 2 or present_nc.shape != scores_nc.shape or not len(scores_nc):
        raise ValueError(
            f"expected scores and classes [N, C], N > 0; got {scores_nc.shape}, {present_nc.shape}"
        )
    if not np.isin(present_nc, (0, 1)).all():
        raise ValueError("a clip has a class (1) or does not have it (0); got other values")
    clips_c = np.count_nonzero(present_nc, axis=0)
    retrieved = ~np.isnan(scores_nc).any(axis=1)
    scores_nc, present_nc = scores_nc[retrieved], present_nc[retrieved]
    precisions_c = [
        _sum_of_precisions(scores_n, present_n != 0)
        for scores_n, present_n in zip(scores_nc.T, present_nc.T, strict=True)
    ]
    averages_c = np.full(len(clips_c), np.nan)
    np.divide(precisions_c, clips_c, out=averages_c, where=clips_c > 0)
    return averages_c


def _sum_of_precisions(scores_n: np.ndarray, present_n: np.ndarray) -> float:
    """The sum, over the clips that have one class, of the precision down to each."""
    order = np.argsort(-scores_n, kind="stable")
    ranked = scores_n[order]
    ends = np.flatnonzero(
        np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    )  # of runs of equal scores
    found = np.cumsum(present_n[order])[ends]
    precisions = found / (ends + 1)
    return float(np.sum(np.diff(found, prepend=0) * precisions))
