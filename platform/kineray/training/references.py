"""Which checkpoint a word means: a run by its name, id or folder, or a checkpoint. Needs no torch."""

import json
import re
from pathlib import Path

from kineray import storage as store
from kineray.config.problems import did_you_mean
from kineray.errors import CheckpointError, StorageError
from kineray.training.checkpoint_files import INDEX, RUN, STATE, parse_json

_RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_checkpoint(reference: str | Path, storage: str | None = None) -> str:
    """The folder of a checkpoint or run (whose best checkpoint is meant).

    ``reference``: its path or URI, or the run's name or MLflow id. ``storage``: the folder or s3:// prefix of
    the runs, by default KINERAY_STORAGE or ./runs. Raises CheckpointError, with the nearest name, if nothing
    is found.
    """
    name = str(reference)
    if store.is_remote(name) or Path(name).exists():
        return name
    runs = store.runs_folder(storage)
    if (named := _with_checkpoints(runs, name)) is not None:
        return named
    if _RUN_ID.fullmatch(name) and (marked := _with_id(runs, name)) is not None:
        return marked
    raise CheckpointError(
        f"no such folder, and no run of this name in {runs}",
        code="unknown_checkpoint",
        key=name,
        remedy=did_you_mean(name, store.list_names(runs))
        or "give a checkpoint or run folder, or a run's name and its `storage`",
    )


def checkpoint_in(folder: str) -> str:
    """The checkpoint that a folder or URI means: the best one (else the last) of a run, else it itself."""
    if store.exists(store.join(folder, STATE)):
        return folder
    for place in (folder, store.join(folder, "checkpoints")):
        index = store.join(place, INDEX)
        if store.exists(index):
            content = parse_json(index, store.read_bytes(index))
            name = content.get("best") or content.get("last")
            return store.join(place, str(name)) if name else folder
    return folder


def _with_checkpoints(runs: str, name: str) -> str | None:
    folder = store.join(runs, name)
    return folder if store.exists(store.join(folder, "checkpoints", INDEX)) else None


def _with_id(runs: str, run_id: str) -> str | None:
    for file in store.list_files(runs):
        name, _, last = file.rpartition("/")
        if last == RUN and run_id_in(store.join(runs, name)) == run_id:
            return _with_checkpoints(runs, name)
    return None


def run_id_in(folder: str) -> str | None:
    """The MLflow id that is recorded in the folder of a run; None if there is none."""
    try:
        return str(json.loads(store.read_bytes(store.join(folder, RUN)))["run_id"])
    except (StorageError, ValueError, TypeError, KeyError):  # none, or an older one's
        return None
