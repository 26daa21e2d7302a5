"""When validation has stopped improving."""

from collections.abc import Sequence


def validations_since_best(scores: Sequence[float], improvement: float) -> list[int]:
    """After each validation, how many there have been since the one with the best score.

    ``scores``: the oldest first; one is the best if it is more than ``improvement`` above the best before it.
    """
    best, since, counts = -float("inf"), 0, []
    for score in scores:
        best, since = (score, 0) if score > best + improvement else (best, since + 1)
        counts.append(since)
    return counts
