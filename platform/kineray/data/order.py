"""The order and the randomness of samples, as pure functions.

Both come from SHA-256 and PCG64's raw stream, which NumPy keeps the same across versions and platforms.
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
