"""Claiming the name of a new run, which a run that failed before its first checkpoint gives up."""

import itertools
import logging
from typing import TYPE_CHECKING

from kineray import storage
from kineray.tracking.client import has_tracker, tracking_errors, tracking_uri
from kineray.tracking.edit import delete_run
from kineray.tracking.names import check_name, name_taken
from kineray.tracking.runs import PROBLEM, RunSummary, is_in_tracker, list_runs, open_and_send
from kineray.training.checkpoint_files import INDEX

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)


def claim_name(storage_uri: str, base: str, *, numbered: bool, file: str, data: bytes) -> str:
    """Create the folder of a new run, with a file in it, and return the run's name.

    With ``numbered`` that is the first of ``base``, ``base-2``, ``base-3``, ... that neither tracker nor
    storage has; runs that start at the same time get different ones. Without, a run of this name that ended
    before its first checkpoint is deleted, which is logged. Raises ConfigError for a name with other
    characters than letters, digits and ``_ . , = + - /``, and without ``numbered`` for a name that is taken.
    """
    check_name(base)
    client = open_and_send(storage_uri)
    for number in itertools.count(1):
        name = base if number == 1 else f"{base}-{number}"
        if _create(client, storage_uri, name, file, data):
            return name
        if not numbered:
            break
    if _free(storage_uri, base) and _create(client, storage_uri, base, file, data):
        return base
    raise name_taken(storage_uri, base)


def free_name(storage_uri: str, base: str, *, numbered: bool) -> str:
    """The name that ``claim_name`` would give now; nothing is claimed. Raises what it raises."""
    check_name(base)
    client = open_and_send(storage_uri) if has_tracker(storage_uri) else None
    for number in itertools.count(1):
        name = base if number == 1 else f"{base}-{number}"
        if not _is_taken(client, storage_uri, name):
            return name
        if not numbered:
            break
    if client is not None and _failed_early(storage_uri, base):
        return base
    raise name_taken(storage_uri, base)


def _is_taken(client: "MlflowClient | None", storage_uri: str, name: str) -> bool:
    with tracking_errors(tracking_uri(storage_uri)):
        is_recorded = client is not None and is_in_tracker(client, storage_uri, name)
    return is_recorded or storage.exists(storage.join(storage_uri, name))


def _create(client: "MlflowClient", storage_uri: str, name: str, file: str, data: bytes) -> bool:
    with tracking_errors(tracking_uri(storage_uri)):
        is_free = not is_in_tracker(client, storage_uri, name)
    return is_free and storage.create_folder(storage.join(storage_uri, name), file, data)


def _free(storage_uri: str, name: str) -> bool:
    """Delete the run of this name if it left nothing to continue from; whether it was deleted.

    Of several processes that try at the same time, on any hosts, one does it.
    """
    run = _failed_early(storage_uri, name)
    if run is None:
        return False
    mark = storage.join(storage_uri, f".replaced-{run.run_id}")
    if not storage.create_folder(mark, "name", name.encode()):
        return False
    try:
        # Another process may have deleted it, and begun a run of this name, before the mark was made.
        now = _failed_early(storage_uri, name)
        if now is None or now.run_id != run.run_id:
            return False
        delete_run(run.run_id, storage=storage_uri)
    finally:
        storage.delete_folder(mark)
    log.warning(
        "the run %s of %s ended before its first checkpoint%s; its record was deleted, to use its name again",
        name,
        run.started,
        f" ({run.tags[PROBLEM]})" if PROBLEM in run.tags else "",
    )
    return True


def _failed_early(storage_uri: str, name: str) -> RunSummary | None:
    """The run of this name, if it and its trials have failed, or were ended, without any checkpoint."""
    runs = list_runs(storage_uri)
    family = [run for run in runs if name in (run.name, run.parent)]
    own = [run for run in family if run.name == name]
    if len(own) != 1 or any(run.status not in ("FAILED", "KILLED") for run in family):
        return None
    return own[0] if not any(_has_checkpoint(storage_uri, run) for run in family) else None


def _has_checkpoint(storage_uri: str, run: RunSummary) -> bool:
    """Whether there is one; the record does not have it if the driver was lost before it heard of it."""
    index = storage.join(storage_uri, run.name, "checkpoints", INDEX)
    return run.last_checkpoint is not None or storage.exists(index)
