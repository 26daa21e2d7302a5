"""Which checkpoint a name means: a run's name, or the folder or s3:// URI of a run or checkpoint."""

from pathlib import Path

import torch

from kineray.errors import ConfigError
from kineray.training import Checkpoint, load_checkpoint
from kineray.training.references import find_checkpoint

__all__ = ["CheckpointLike", "check_crops", "find_checkpoint", "open_checkpoint"]

CheckpointLike = str | Path | Checkpoint

_CROPS = (1, 3)


def open_checkpoint(
    checkpoint: CheckpointLike, *, storage: str | None = None, device: str | None = None
) -> tuple[Checkpoint, str]:
    """A checkpoint and the device that its model is on; a loaded one stays where it is.

    ``checkpoint``: what ``find_checkpoint`` finds, or a loaded checkpoint. ``device``: by default a GPU if
    there is one. Raises CheckpointError, StorageError.
    """
    if isinstance(checkpoint, Checkpoint):
        parameter = next(checkpoint.model.parameters(), None)
        return checkpoint, "cpu" if parameter is None else str(parameter.device)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return load_checkpoint(find_checkpoint(checkpoint, storage), device=chosen), chosen


def check_crops(crops: int) -> None:
    """Raise ConfigError unless views can be cut ``crops`` times."""
    if crops not in _CROPS:
        raise ConfigError(
            "not a number of crops",
            code="unknown_value",
            key="crops",
            value=crops,
            remedy="use 1 (centre) or 3 (left to right)",
        )
