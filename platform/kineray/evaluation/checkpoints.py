"""Which checkpoint a name means: a run's name, or the folder or s3:// URI of a run or checkpoint."""

from pathlib import Path

import torch

from kineray import storage as store
from kineray.config.problems import did_you_mean
from kineray.errors import CheckpointError, ConfigError
from kineray.training import Checkpoint, load_checkpoint

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


def find_checkpoint(reference: str | Path, storage: str | None = None) -> str:
    """The folder of a checkpoint or run (whose best checkpoint is meant) from its path, URI or run's name.

    ``storage``: the folder or s3:// prefix of the runs, by default KINERAY_STORAGE or ./runs. Raises
    CheckpointError, with the nearest name, if nothing is found.
    """
    name = str(reference)
    if store.is_remote(name) or Path(name).exists():
        return name
    runs = store.runs_folder(storage)
    inside = store.join(runs, name)
    if store.exists(store.join(inside, "checkpoints", "index.json")):
        return inside
    raise CheckpointError(
        f"no such folder, and no run of this name in {runs}",
        code="unknown_checkpoint",
        key=name,
        remedy=did_you_mean(name, store.list_names(runs))
        or "give a checkpoint or run folder, or a run's name and its `storage`",
    )


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
