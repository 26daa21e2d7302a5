"""Accuracies for clips that have one class each.

Equal scores are ranked by class index, the lower one first, in the order in which predictions are listed.
"""

from collections.abc import Iterable

import numpy as np

NEVER = np.iinfo(np.int64).max  # rank of the label of a clip without a prediction


def top_k_accuracy(scores_nc: np.ndarray, labels_n: np.ndarray, k: int) -> float:
    """Share of the clips whose label is among the ``k`` best scores.

    If ``k`` is at least the number of classes, every clip that has a prediction counts as right.

    >>> scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [np.nan] * 3])
    >>> labels = np.array([1, 2, 0])
    >>> [round(top_k_accuracy(scores, labels, k), 3) for k in (1, 2, 5)]
    [0.333, 0.667, 0.667]
    """
    return share_within(label_ranks(scores_nc, labels_n), k)


def share_within(ranks_n: np.ndarray, k: int) -> float:
    """Share of the ranks, int [N], that are among the first ``k``; the first rank is 0."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return float(np.mean(ranks_n < k))


def shares_within(ranks_n: np.ndarray, ks: Iterable[int], classes: int) -> dict[str, float]:
    """{"top<k>": share of the ranks that are among the first ``k``}, for ranks among ``classes`` classes.

    A ``k`` above 1 that is more than half of the classes is left out: of four classes, every classifier has
    the right one among its best four, and guessing has it among its best three in 75 % of the clips.

    >>> shares_within(np.array([0, 1, 0, 3]), (1, 3, 5), classes=4)
    {'top1': 0.5}
    >>> shares_within(np.array([0, 1, 0, 3]), (1, 3, 5), classes=10)
    {'top1': 0.5, 'top3': 0.75, 'top5': 1.0}
    """
    return {f"top{k}": share_within(ranks_n, k) for k in ks if k == 1 or 2 * k <= classes}


def per_class_accuracy(scores_nc: np.ndarray, labels_n: np.ndarray) -> np.ndarray:
    """Top-1 accuracy of the clips of each class: float64 [C], NaN for a class without clips.

    >>> scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    >>> per_class_accuracy(scores, np.array([0, 0, 1])).tolist()
    [0.5, 0.0, nan]
    """
    right_n = label_ranks(scores_nc, labels_n) == 0
    classes = scores_nc.shape[1]
    clips_c = np.bincount(labels_n, minlength=classes)
    right_c = np.bincount(labels_n, weights=right_n, minlength=classes)
    accuracies_c = np.full(classes, np.nan)
    np.divide(right_c, clips_c, out=accuracies_c, where=clips_c > 0)
    return accuracies_c


def mean_class_accuracy(scores_nc: np.ndarray, labels_n: np.ndarray) -> float:
    """Mean of ``per_class_accuracy`` over the classes that occur: every class has the same weight.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    >>> mean_class_accuracy(scores, np.array([0, 0, 0, 1]))
    0.5
    """
    return float(np.nanmean(per_class_accuracy(scores_nc, labels_n)))


def label_ranks(scores_nc: np.ndarray, labels_n: np.ndarray) -> np.ndarray:
    """Rank of each label among the scores of its row, 0 for the best: int64 [N].

    Without a prediction the rank is ``NEVER``.
    """
    check_labels(scores_nc, labels_n)
    clips, classes = scores_nc.shape
    own_n1 = scores_nc[np.arange(clips), labels_n][:, None]
    before_nc = np.arange(classes)[None, :] < labels_n[:, None]
    ranks_n = np.sum((scores_nc > own_n1) | ((scores_nc == own_n1) & before_nc), axis=1)
    return np.where(np.isnan(scores_nc).any(axis=1), NEVER, ranks_n)


def check_labels(scores_nc: np.ndarray, labels_n: np.ndarray) -> None:
    """Raise ValueError unless every clip has scores and a label that is one of the classes."""
    if scores_nc.ndim != 2 or labels_n.shape != scores_nc.shape[:1] or not len(labels_n):
        raise ValueError(
            f"expected scores [N, C] and labels [N], N > 0; got {scores_nc.shape}, {labels_n.shape}"
        )
    classes = scores_nc.shape[1]
    if labels_n.min() < 0 or labels_n.max() >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}; got {labels_n.min()}..{labels_n.max()}")
