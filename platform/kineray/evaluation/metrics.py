"""Accuracy of class scores, in plain NumPy.

``scores`` is float [N, C], one row per clip; a row that holds a NaN is a clip without a prediction
and counts as wrong. ``labels`` is int [N], 0 <= label < C. Equal scores rank by class index.
"""

import numpy as np


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of the clips whose label is among the ``k`` best scores.

    With ``k`` at or above the number of classes every clip that has a prediction is right.

    >>> scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [np.nan] * 3])
    >>> labels = np.array([1, 2, 0])
    >>> [round(top_k_accuracy(scores, labels, k), 3) for k in (1, 2, 5)]
    [0.333, 0.667, 0.667]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    return float(np.mean(_ranks(scores, labels) < k))


def per_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Top-1 accuracy of the clips of each class: float64 [C], NaN for a class without clips.

    >>> scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]])
    >>> per_class_accuracy(scores, np.array([0, 0, 1])).tolist()
    [0.5, 0.0, nan]
    """
    right = _ranks(scores, labels) == 0
    classes = scores.shape[1]
    of_class = np.bincount(labels, minlength=classes)
    right_of_class = np.bincount(labels, weights=right, minlength=classes)
    accuracies = np.full(classes, np.nan)
    np.divide(right_of_class, of_class, out=accuracies, where=of_class > 0)
    return accuracies


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that occur of ``per_class_accuracy``: every class weighs the same.

    >>> scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    >>> mean_class_accuracy(scores, np.array([0, 0, 0, 1]))
    0.5
    """
    return float(np.nanmean(per_class_accuracy(scores, labels)))


def _ranks(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each label in its row's ranking, 0 the best: int64 [N]; past every k without a prediction."""
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"expected scores [N, C] and labels [N], N > 0; got {scores.shape}, {labels.shape}")
    clips, classes = scores.shape
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"labels must lie in 0..{classes - 1}; got {labels.min()}..{labels.max()}")
    own = scores[np.arange(clips), labels][:, None]
    before = np.arange(classes)[None, :] < labels[:, None]
    ranks = np.sum((scores > own) | ((scores == own) & before), axis=1)
    return np.where(np.isnan(scores).any(axis=1), np.iinfo(np.int64).max, ranks)
