"""Where the checkpoints of a run are: recorded relative to the storage, so that it can be moved or copied.

A storage folder with a database of its own moves with it. With a tracker that several storages share, a
storage has moved if the run's folder in it says that it is that of this run.
"""

import json
from collections.abc import Mapping

from kineray import storage
from kineray.errors import CheckpointError
from kineray.tracking.client import default_uri, tracking_uri
from kineray.training.checkpoint_files import RUN
from kineray.training.references import run_id_in


def mark_folder(storage_uri: str, name: str, run_id: str) -> None:
    """Write into the folder of a run whose it is. Raises StorageError."""
    content = json.dumps({"run_id": run_id}).encode()
    storage.write_bytes(storage.join(storage_uri, name, RUN), content)


def root_of(storage_uri: str, name: str, run_id: str, tags: Mapping[str, str], *, look: bool) -> str:
    """The storage that the run is in: ``storage_uri``, or that in which it was started.

    ``look``: whether to look into the folder of the run, if that is needed to decide.
    """
    here = storage.absolute(storage_uri)
    recorded = tags.get("storage") or here
    has_moved = recorded != here and (
        tracking_uri(storage_uri) == default_uri(storage_uri)
        or (look and run_id_in(storage.join(storage_uri, name)) == run_id)
    )
    return here if has_moved else recorded


def location(root: str, tags: Mapping[str, str], tag: str) -> str | None:
    """The location that ``tag`` records, of a run in the storage ``root``; None without one."""
    recorded = tags.get(tag)
    if recorded is None:
        return None
    is_absolute = storage.is_remote(recorded) or recorded.startswith("/")  # as it once was recorded
    inside = storage.relative(recorded, tags.get("storage") or root) if is_absolute else recorded
    return recorded if inside is None else storage.join(root, inside)


def check_inside(storage_uri: str, checkpoint: str) -> None:
    """Raise CheckpointError for a checkpoint that is not in the storage, and may be another run's by now."""
    if storage.relative(checkpoint, storage_uri) is None:
        raise CheckpointError(
            f"not in the storage {storage.absolute(storage_uri)}",
            code="outside_storage",
            key=checkpoint,
            remedy="pass the `storage` that it is in",
        )


def run_id_of(checkpoint: str, storage_uri: str) -> str | None:
    """The MLflow id of the run in ``storage_uri`` that a checkpoint belongs to; None if there is none."""
    inside = storage.relative(checkpoint, storage_uri)
    name = inside and inside.rpartition("/checkpoints/")[0]
    return run_id_in(storage.join(storage_uri, name)) if name else None
