"""Changing the champion, in the registry and in the running service."""

from dataclasses import dataclass
from pathlib import Path

from kineray import storage as store
from kineray.serving.lock import one_change
from kineray.serving.service import find_service
from kineray.tracking import (
    DEFAULT_MODEL,
    ModelVersion,
    checkpoint_of,
    fetch,
    get_run,
    previous_version,
    registered,
    set_champion,
)
from kineray.training import load_checkpoint


@dataclass(frozen=True)
class Promotion:
    """The new champion. ``served``: whether a running service answers with it; ``url``: of that service."""

    name: str
    version: int
    run_name: str
    sha256: str
    served: bool
    url: str | None


def promote(run: str | Path, *, storage: str | None = None, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Register the best checkpoint of a run as a new version and make it the champion.

    ``run``: the run's name in ``storage``, its MLflow run id, or its folder. ``storage``: KINERAY_STORAGE or
    ./runs by default. ``model_name``: the model's name in the registry.

    A running service answers with the new version, without a restart, before the alias ``champion`` moves. A
    service that is starting, and another promotion, are waited for.

    Files that are a version already are not registered again. Raises TrackingError for an unknown run,
    CheckpointError if its checkpoint cannot be loaded or is not in ``storage``, and ServingError if the new
    version cannot be served: then the old version continues to answer, and the registry is as it was.
    """
    runs = store.runs_folder(storage)
    name = _run_name(run, runs)
    # Even if no service is running: the next one could not start with a checkpoint that does not load.
    load_checkpoint(checkpoint_of(runs, get_run(runs, name)))
    with one_change(store.absolute(runs)), registered(runs, name, model_name) as version:
        fetch(runs, version)
        return _make_champion(runs, version)


def rollback(*, storage: str | None = None, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Make the previous champion the champion again, also in a running service.

    ``storage``: KINERAY_STORAGE or ./runs by default. Raises TrackingError if there is no previous champion,
    and otherwise the errors of ``promote``.
    """
    runs = store.runs_folder(storage)
    with one_change(store.absolute(runs)):
        version = previous_version(runs, model_name)
        load_checkpoint(str(fetch(runs, version)))
        return _make_champion(runs, version)


def _run_name(run: str | Path, runs: str) -> str:
    """The name of a run that may be given by its folder in ``runs``."""
    text = str(run)
    if not (store.is_remote(text) or "/" in text):
        return text
    folder = store.absolute(text).rstrip("/")
    return store.relative(folder, runs) or folder


def _make_champion(runs: str, version: ModelVersion) -> Promotion:
    service = find_service(store.absolute(runs))
    if service is not None and service.model_name == version.name:
        with service.deployed(version):
            set_champion(runs, version.name, version.version)
    else:
        service = None
        set_champion(runs, version.name, version.version)
    return Promotion(
        name=version.name,
        version=version.version,
        run_name=version.run_name,
        sha256=version.sha256,
        served=service is not None,
        url=service.url if service is not None else None,
    )
