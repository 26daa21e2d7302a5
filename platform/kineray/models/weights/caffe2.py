"""Caffe2's .pkl files, read without executing their content.

The model zoo of SlowFast has such files: a pickle of {"blobs": {name: array}}. A pickle can call any function
by name; this reader allows the few that build NumPy arrays and refuses all others.
"""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from kineray.errors import CheckpointError

_NOT_WEIGHTS = ("momentum", "lr", "model_iter")  # in names of the optimizer's blobs


def read_caffe2(path: Path) -> dict[str, Tensor]:
    """{blob: float32 tensor} of a Caffe2 .pkl file, without the optimizer's blobs.

    Raises CheckpointError for a file that is damaged, contains something else, or would call a function.
    """
    try:
        with path.open("rb") as file:
            content = _ArraysOnly(file, encoding="latin1").load()
    except (CheckpointError, OSError):
        raise
    except Exception:  # a damaged pickle raises any kind of error
        raise CheckpointError("damaged, or not a Caffe2 file", code="damaged") from None
    blobs = content.get("blobs") if isinstance(content, dict) else None
    if not isinstance(blobs, dict):
        raise CheckpointError("not a Caffe2 file of weights: it has no 'blobs'", code="not_weights")
    return {
        str(name): torch.from_numpy(np.array(value, dtype=np.float32))
        for name, value in blobs.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind == "f"
        and not any(word in str(name) for word in _NOT_WEIGHTS)
    }


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for ``codecs.encode``, by which Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise ValueError(encoding)
    return text.encode("latin1")


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy.core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles containers, strings, numbers and NumPy arrays, and nothing else."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        allowed = _ALLOWED.get((module, name))
        if allowed is None:
            raise CheckpointError(
                f"refused: it would call {module}.{name}, and files of weights hold only arrays",
                code="unsafe",
                remedy="download the file from its publisher again",
            )
        return allowed
