"""Random streams as pure functions of a key.

All are seeded with the SHA-256 of the key. ``sample_rng`` is a Generator on the raw stream of PCG64: its
numbers are the same on every platform, but NumPy may change the methods of Generator between versions.
"""

import hashlib

import numpy as np


def pcg64(*key: object) -> np.random.PCG64:
    """The PCG64 stream of a key; NumPy guarantees the same raw stream across versions and platforms."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest, "little"))


def sample_rng(
    seed: int, epoch: int, sample_id: str, attempt: int = 0, repeat: int = 0
) -> np.random.Generator:
    """The random numbers of one sample in one epoch, whichever worker decodes it.

    ``attempt`` counts the replacements of a sample that cannot be decoded; ``repeat`` counts how often the
    sample was seen before in this epoch (``batches.order.repeats``).
    """
    again = (repeat,) if repeat else ()
    return np.random.Generator(pcg64("sample", seed, epoch, sample_id, attempt, *again))
