"""The order and the randomness of samples, as pure functions.

Both are seeded by SHA-256. ``global_order`` reads only PCG64's raw stream, which NumPy promises to keep the
same across versions and platforms. ``sample_rng`` is a Generator on that stream: it is the same on every
platform with one version of NumPy, but NumPy may change the methods of Generator from version to version.
"""

import hashlib

import numpy as np


def _pcg64(*key: object) -> np.random.PCG64:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "little"))


def global_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of ``range(n)`` that an epoch goes through: int64 [n]."""
    # Sorting random keys needs only the raw stream; Generator.permutation may change between versions.
    keys = _pcg64("order", seed, epoch).random_raw(n)
    return np.argsort(keys, kind="stable").astype(np.int64)


def sample_rng(seed: int, epoch: int, sample_id: str, attempt: int = 0) -> np.random.Generator:
    """The randomness of one sample in one epoch, whichever worker decodes it.

    ``attempt`` is above 0 when a sample that cannot be decoded is replaced.
    """
    return np.random.Generator(_pcg64("sample", seed, epoch, sample_id, attempt))
