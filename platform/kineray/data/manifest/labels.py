"""Labels as arrays: one class per clip, or for a multi-label head any number of classes."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

Label: TypeAlias = int | tuple[int, ...] | None
"""A class index, ``ABSENT`` if it is not known; for a multi-label head the indices of the clip's classes in
rising order (``()``: none of the classes), None if they are not known."""

ABSENT = -1  # the index of a class that is not known
UNKNOWN = 255  # the values of a multi-hot row whose classes are not known


def label_array(labels: Iterable[Label], classes: int | None = None) -> np.ndarray:
    """Labels of one head: int64 [N], or for a multi-label head with ``classes`` classes uint8 [N, classes].

    A multi-hot row is 1 for the classes of the clip and 0 for all others, or ``UNKNOWN`` throughout if the
    classes are not known.
    """
    rows = list(labels)
    if classes is None:
        return np.array(rows, np.int64).reshape(len(rows))
    known = [row for row in rows if isinstance(row, tuple)]
    indices = np.array([index for row in known for index in row], np.int64)
    lengths = [len(row) if isinstance(row, tuple) else -1 for row in rows]
    return multi_hot(indices, lengths, classes)


def multi_hot(indices: np.ndarray, lengths: Sequence[int] | np.ndarray, classes: int) -> np.ndarray:
    """uint8 [N, classes] from the concatenated class indices of N clips, int [sum of the lengths].

    ``lengths``: number of indices of each clip; below 0 if its classes are not known.
    """
    counts = np.asarray(lengths, np.int64)
    hot_nc = np.zeros((len(counts), classes), np.uint8)
    hot_nc[counts < 0] = UNKNOWN
    hot_nc[np.repeat(np.arange(len(counts)), counts.clip(0)), indices] = 1
    return hot_nc


def known_labels(labels: np.ndarray) -> np.ndarray:
    """Which clips have a known label: bool [N]. ``labels``: as ``label_array`` makes them."""
    known: np.ndarray = labels != ABSENT if labels.ndim == 1 else (labels != UNKNOWN).all(axis=1)
    return known


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many clips have each class: int64 [classes]. ``labels``: as ``label_array`` makes them."""
    known = labels[known_labels(labels)]
    if labels.ndim == 1:
        return np.bincount(known, minlength=classes)
    counts: np.ndarray = known.sum(axis=0, dtype=np.int64)
    return counts
