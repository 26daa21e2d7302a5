"""Changing the champion, in the registry and in the service that runs."""

from dataclasses import dataclass

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


def promote(storage: str, run: str, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Register the best checkpoint of ``run`` as a new version and make it the champion.

    Where a service runs it answers with the new version before the alias ``champion`` moves, without
    a restart. Raises CheckpointError or TrackingError when the checkpoint cannot be loaded: nothing is
    registered then. Raises ServingError when it cannot be served: the old version goes on answering
    and the aliases stay, but the new version remains in the registry, without an alias.
    """
    found = get_run(storage, run)
    checkpoint = found.best_checkpoint or found.last_checkpoint
    if checkpoint is not None:  # without one, register says so
        load_checkpoint(checkpoint)
    return _make_champion(storage, register(storage, run, model_name))


def rollback(storage: str, model_name: str = DEFAULT_MODEL) -> Promotion:
    """Make the previous champion the champion again, as ``promote`` does.

    Raises TrackingError when there is none.
    """
    return _make_champion(storage, previous_version(storage, model_name))


def _make_champion(storage: str, version: ModelVersion) -> Promotion:
    # Also where no service runs: the next one could not start with a checkpoint that does not load.
    load_checkpoint(str(fetch(storage, version)))
    service = find_service(store.absolute(storage))
    if service is not None and service.model_name == version.name:
        with service.deployed(version):
            set_champion(storage, version.name, version.version)
    else:
        service = None
        set_champion(storage, version.name, version.version)
    return Promotion(
        name=version.name,
        version=version.version,
        run_name=version.run_name,
        sha256=version.sha256,
        served=service is not None,
        url=service.url if service is not None else None,
    )
