"""Changing the champion, in the registry and in the service that runs."""

from dataclasses import dataclass
from pathlib import Path

from kineray import storage as store
from kineray.serving.service import find_service
from kineray.tracking import (
    DEFAULT_MODEL,
    ModelVersion,
    fetch,
    get_run,
    previous_version,
    register,
    set_champion,
)
from kineray.training import load_checkpoint


@dataclass(frozen=True)
class Promotion:
    """The new champion; ``served``: whether a running service answers with it."""

    name: str
    version: int
    run_name: str
    sha256: str
    served: bool
    url: str | None


def promote(run: str | Path, *, storage: str | None = None, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Register the best checkpoint of a run as a new version and make it the champion.

    ``run``: its name in ``storage``, its MLflow run id, or its folder. ``storage``: by default
    KINERAY_STORAGE or ./runs. ``model_name``: in the registry.

    A service that runs answers with the new version before the alias ``champion`` moves, without a
    restart. Raises TrackingError for an unknown run and CheckpointError if its checkpoint cannot be loaded:
    nothing is registered then. Raises ServingError if it cannot be served: the old version goes on
    answering and the aliases stay, but the new version remains in the registry, without an alias.
    """
    runs = store.runs_folder(storage)
    name = _run_name(run, runs)
    found = get_run(runs, name)
    checkpoint = found.best_checkpoint or found.last_checkpoint
    if checkpoint is not None:  # register raises where there is none
        load_checkpoint(checkpoint)
    return _make_champion(runs, register(runs, name, model_name))


def rollback(*, storage: str | None = None, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Make the previous champion the champion again, and serve it where a service runs.

    ``storage``: by default KINERAY_STORAGE or ./runs. Raises TrackingError when there is no previous
    champion, and what ``promote`` raises.
    """
    runs = store.runs_folder(storage)
    return _make_champion(runs, previous_version(runs, model_name))


def _run_name(run: str | Path, runs: str) -> str:
    """A run's name, which for a folder of ``runs`` is the folder's."""
    inside = store.absolute(runs).rstrip("/") + "/"
    text = str(run)
    if store.is_remote(text) or "/" in text:
        text = store.absolute(text).rstrip("/").removeprefix(inside)
    return text


def _make_champion(runs: str, version: ModelVersion) -> Promotion:
    # Also where no service runs: the next one could not start with a checkpoint that does not load.
    load_checkpoint(str(fetch(runs, version)))
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
