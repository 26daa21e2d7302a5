"""The order of samples, as pure functions.

They read only PCG64's raw stream, which NumPy promises to keep the same across versions and platforms, and
calculate with whole numbers.
"""

import math
from collections.abc import Sequence

import numpy as np

from kineray.data.clips.seeds import pcg64
from kineray.errors import ConfigError

_ONE = 2**32  # the weight of a class with one sample; weights are whole numbers


def global_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of ``range(n)`` that an epoch goes through: int64 [n]."""
    # Sorting random keys needs only the raw stream; Generator.permutation may change between versions.
    keys = pcg64("order", seed, epoch).random_raw(n)
    return np.argsort(keys, kind="stable").astype(np.int64)


def balanced_order(labels: np.ndarray, seed: int, epoch: int, power: float) -> np.ndarray:
    """An epoch of N samples in which a class of n takes a share proportional to n ** ``power``: int64 [N].

    ``labels``: int64 [N], class by sample; those of -1 (no label) are left out, and the others fill the
    epoch. ``power`` 1 shows every class as often as it occurs, 0 all classes alike, 0.5 lies between.
    After e epochs a class has been seen as often as its share says, rounded up or down (largest
    remainder), and its samples have taken turns: none is seen again before all the others have been, over
    the ends of epochs too. Raises ValueError where no sample has a label.
    """
    if labels.ndim != 1 or not 0 <= power <= 1:
        raise ValueError(f"labels must be [N] and power from 0 to 1, not {labels.shape} and {power}")
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    if not len(classes):
        raise ValueError("no sample has a label: there is nothing to balance")
    weights = [_weight(int(count), power) for count in counts]
    n = len(labels)
    seen, by_now = _apportion(epoch * n, weights), _apportion((epoch + 1) * n, weights)
    turns = [
        np.flatnonzero(labels == label)[_turns(int(count), first, last, seed, int(label))]
        for label, count, first, last in zip(classes, counts, seen, by_now, strict=True)
    ]
    keys = pcg64("balanced order", seed, epoch).random_raw(n)
    return np.concatenate(turns)[np.argsort(keys, kind="stable")].astype(np.int64)


def repeats(order: np.ndarray) -> np.ndarray:
    """How often each entry occurs before it in ``order``: int64 [N]; all 0 for a permutation."""
    by_value = np.argsort(order, kind="stable")
    ordered = order[by_value]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    runs = np.diff(starts, append=len(order))
    counts = np.empty(len(order), np.int64)
    counts[by_value] = np.arange(len(order)) - np.repeat(starts, runs)
    return counts


def _weight(count: int, power: float) -> int:
    """``count ** power``, in parts of 2 ** 32; exact and the same everywhere for 0, 0.5 and 1."""
    if power == 0.5:
        return math.isqrt(count * _ONE * _ONE)
    return round(math.pow(count, power) * _ONE)


def _apportion(n: int, weights: Sequence[int]) -> list[int]:
    """``n`` in whole parts by weight: by largest remainder; of equal ones the first get more."""
    total = sum(weights)
    shares = [divmod(n * weight, total) for weight in weights]
    parts = [share for share, _ in shares]
    by_remainder = sorted(range(len(parts)), key=lambda index: -shares[index][1])
    for index in by_remainder[: n - sum(parts)]:
        parts[index] += 1
    return parts


def _turns(count: int, first: int, last: int, seed: int, label: int) -> np.ndarray:
    """Turns [first, last) of an endless row of permutations of ``range(count)``."""
    stream = pcg64("balanced turns", seed, label)
    round_ = first // count
    rounds = max(-(-last // count) - round_, 0)
    stream.advance(round_ * count)
    keys = stream.random_raw(rounds * count).reshape(rounds, count)
    return np.argsort(keys, axis=1, kind="stable").ravel()[first - round_ * count : last - round_ * count]


def steps_per_epoch(samples: int, global_batch: int, clips_per_sample: int = 1) -> int:
    """Number of whole global batches in an epoch of ``samples``. Raises ConfigError if there is none."""
    clips = samples * clips_per_sample
    if clips < global_batch:
        each = f" with {clips_per_sample} clips each" if clips_per_sample > 1 else ""
        raise ConfigError(
            f"{samples} samples{each} do not fill a global batch of {global_batch}",
            code="batch_larger_than_epoch",
            key="train.global_batch",
            remedy="make the batch smaller",
        )
    return clips // global_batch
