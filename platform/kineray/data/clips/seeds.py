"""Random streams by key, as pure functions.

All are seeded by SHA-256 of their key. ``sample_rng`` is a Generator on PCG64's raw stream: it is the same on
every platform with one version of NumPy, but NumPy may change the methods of Generator between versions.
"""

import hashlib

import numpy as np


def pcg64(*key: object) -> np.random.PCG64:
    """PCG64's raw stream of a key, which NumPy promises to keep the same across versions and platforms."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "little"))


def sample_rng(
    seed: int, epoch: int, sample_id: str, attempt: int = 0, repeat: int = 0
) -> np.random.Generator:
    """The randomness of one sample in one epoch, whichever worker decodes it.

    ``attempt`` is above 0 when a sample that cannot be decoded is replaced; ``repeat`` when a sample is
    seen again in one epoch (``repeats``).
    """
    again = (repeat,) if repeat else ()
    return np.random.Generator(pcg64("sample", seed, epoch, sample_id, attempt, *again))
