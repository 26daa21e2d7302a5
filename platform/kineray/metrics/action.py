"""Accuracy of actions: pairs of a verb and a noun, which two heads predict together."""

from typing import TYPE_CHECKING

import numpy as np

from kineray.metrics.base import Scored
from kineray.metrics.ranking import NEVER, check_labels, shares_within

if TYPE_CHECKING:
    from kineray.config.metrics.action import ActionConfig

_SCORES_AT_ONCE = 2**21  # joint scores in memory, float64: 16 MiB


class Action:
    """``top<k>``: share of the clips whose pair is among the ``k`` best by joint score, p(verb) * p(noun)."""

    def __init__(self, config: "ActionConfig") -> None:
        self._k = config.k

    def __call__(self, verb: Scored, noun: Scored) -> dict[str, float]:
        """{"top<k>": share} of the clips whose verb and noun are known, as ``shares_within`` leaves it."""
        ranks_n = pair_ranks(verb.scores_nc, verb.labels, noun.scores_nc, noun.labels)
        return shares_within(ranks_n, self._k, len(verb.classes) * len(noun.classes))


def pair_ranks(
    first_na: np.ndarray, first_labels_n: np.ndarray, second_nb: np.ndarray, second_labels_n: np.ndarray
) -> np.ndarray:
    """Rank of each clip's pair of labels among all A x B pairs, 0 for the best: int64 [N].

    The score of a pair is the product of its two scores. Equal products are ranked by the first label, then
    by the second. Without a prediction the rank is ``NEVER``. Only a few clips have their pairs in memory at
    a time. Raises ValueError for arrays whose shapes or labels do not fit.

    >>> verbs, nouns = np.array([[0.6, 0.4]]), np.array([[0.7, 0.2, 0.1]])
    >>> [int(pair_ranks(verbs, np.array([1]), nouns, np.array([noun]))[0]) for noun in range(3)]
    [1, 3, 5]
    """
    check_labels(first_na, first_labels_n)
    check_labels(second_nb, second_labels_n)
    if len(first_na) != len(second_nb):
        raise ValueError(f"expected scores of the same clips; got {len(first_na)} and {len(second_nb)}")
    pairs = first_na.shape[1] * second_nb.shape[1]
    labels_n = first_labels_n.astype(np.int64) * second_nb.shape[1] + second_labels_n
    ranks_n = np.empty(len(labels_n), np.int64)
    step = max(_SCORES_AT_ONCE // pairs, 1)
    for start in range(0, len(labels_n), step):
        part = slice(start, start + step)
        ranks_n[part] = _ranks(first_na[part], second_nb[part], labels_n[part])
    return ranks_n


def _ranks(first_na: np.ndarray, second_nb: np.ndarray, labels_n: np.ndarray) -> np.ndarray:
    # Products of float32 are exact in float64, so pairs are equal only if their products are.
    joint_np = np.einsum("na,nb->nab", first_na.astype(np.float64), second_nb.astype(np.float64))
    joint_np = joint_np.reshape(len(labels_n), -1)
    own_n1 = np.take_along_axis(joint_np, labels_n[:, None], axis=1)
    better_n = np.count_nonzero(joint_np > own_n1, axis=1)
    for row in np.flatnonzero(np.count_nonzero(joint_np == own_n1, axis=1) > 1):
        better_n[row] += np.count_nonzero(joint_np[row, : labels_n[row]] == own_n1[row])
    return np.where(np.isnan(joint_np).any(axis=1), NEVER, better_n)
