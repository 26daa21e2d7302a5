"""Model versions and the aliases ``champion`` and ``previous``, in MLflow's model registry.

A version never changes: its checkpoint is copied when it is registered, since a run that continues deletes
its old checkpoints, and the hash of its files is checked whenever it is fetched.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineray import storage
from kineray.errors import CheckpointError, TrackingError
from kineray.tracking.client import open_client, tracking_errors, tracking_uri, without_password
from kineray.tracking.locations import check_inside
from kineray.tracking.runs import RunDetail, get_run
from kineray.training.checkpoint_files import weights_file

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_MODEL = "video-classifier"
CHAMPION = "champion"
PREVIOUS = "previous"
# Part of a model besides its weights: with another preprocessing the same weights are another model.
_DESCRIPTIONS = ("experiment.yaml", "preprocessing.json", "state.json")


@dataclass(frozen=True)
class ModelVersion:
    """A registered version: where its checkpoint is, and the run that made it.

    ``source``: the location of the checkpoint. ``sha256``: the hash of its weights. ``content``: the hash
    of all files that define the model.
    """

    name: str
    version: int
    source: str
    sha256: str
    content: str
    run_name: str


def register(storage_uri: str, run_name: str, model_name: str = DEFAULT_MODEL) -> ModelVersion:
    """The version of the best checkpoint of a run (its last one if it was never validated).

    It is a new one, unless the same files are a version already. The checkpoint is copied: into the storage
    if it lies in a bucket, else to the run's artifacts. Raises TrackingError for an unknown run,
    CheckpointError if the run has no checkpoint in this storage.
    """
    return _register(storage_uri, run_name, model_name)[0]


@contextlib.contextmanager
def registered(storage_uri: str, run_name: str, model_name: str = DEFAULT_MODEL) -> Iterator[ModelVersion]:
    """``register``; if the body raises, a version that is new, and not the champion, is deleted again."""
    version, is_new = _register(storage_uri, run_name, model_name)
    try:
        yield version
    except BaseException:
        if is_new:
            _delete(storage_uri, version)
        raise


def _register(storage_uri: str, run_name: str, model_name: str) -> tuple[ModelVersion, bool]:
    """A version, and whether it is new."""
    run = get_run(storage_uri, run_name)
    checkpoint = checkpoint_of(storage_uri, run)
    client = open_client(storage_uri)
    with _local_checkpoint(checkpoint) as folder, tracking_errors(tracking_uri(storage_uri)):
        sha256, content = _hashes(folder)
        for found in client.search_model_versions(f"name = '{model_name}'"):
            if found.tags.get("content") == content:
                return _from_mlflow(found), False
        if storage.is_remote(checkpoint):
            source = storage.join(storage_uri, "models", model_name, content[:12])
            storage.put_folder(folder, source, commit_last="state.json")
        else:
            artifact = f"checkpoint/{content[:12]}"
            client.log_artifacts(run.run_id, str(folder), artifact)
            source = f"runs:/{run.run_id}/{artifact}"
        _create_model(client, model_name)
        inside = storage.relative(checkpoint, storage_uri) or checkpoint
        tags = {"sha256": sha256, "content": content, "run_name": run.name, "checkpoint": inside}
        made = client.create_model_version(model_name, source, run_id=run.run_id, tags=tags)
        return _from_mlflow(made), True


def _delete(storage_uri: str, version: ModelVersion) -> None:
    """Delete a version that is not the champion; that it stays must not hide why it is not."""
    with contextlib.suppress(TrackingError):
        client = open_client(storage_uri)
        champion = _lookup(client, storage_uri, version.name, CHAMPION)
        if champion is None or champion.version != version.version:
            with tracking_errors(tracking_uri(storage_uri)):
                client.delete_model_version(version.name, str(version.version))


def checkpoint_of(storage_uri: str, run: RunDetail) -> str:
    """The best checkpoint of a run, its last one if it was never validated.

    Raises CheckpointError if it has none, or none in this storage.
    """
    checkpoint = run.best_checkpoint or run.last_checkpoint
    if checkpoint is None:
        raise CheckpointError(
            "the run has no checkpoint", code="no_checkpoint", key=run.name, remedy="train it first"
        )
    check_inside(storage_uri, checkpoint)
    return checkpoint


def get_version(
    storage_uri: str, model_name: str = DEFAULT_MODEL, alias_or_number: str | int = CHAMPION
) -> ModelVersion:
    """The version with a number (``3``) or an alias. Raises TrackingError if there is none."""
    client = open_client(storage_uri)
    found = _lookup(client, storage_uri, model_name, alias_or_number)
    if found is None:
        raise TrackingError(
            f"no version '{alias_or_number}' of this model in {without_password(tracking_uri(storage_uri))}",
            code="unknown_version",
            key=model_name,
            remedy="promote a run: kineray promote RUN",
        )
    return found


def set_champion(storage_uri: str, model_name: str, version: int) -> ModelVersion:
    """Give ``version`` the alias champion; the old champion becomes ``previous``."""
    chosen = get_version(storage_uri, model_name, version)
    client = open_client(storage_uri)
    old = _lookup(client, storage_uri, model_name, CHAMPION)
    with tracking_errors(tracking_uri(storage_uri)):
        # In this order, a failure in between leaves a champion that can be served.
        if old is not None and old.version != chosen.version:
            client.set_registered_model_alias(model_name, PREVIOUS, str(old.version))
        client.set_registered_model_alias(model_name, CHAMPION, str(chosen.version))
    return chosen


def rollback(storage_uri: str, model_name: str = DEFAULT_MODEL) -> ModelVersion:
    """Swap ``champion`` and ``previous``; returns the new champion.

    Raises TrackingError if there is no previous champion.
    """
    return set_champion(storage_uri, model_name, previous_version(storage_uri, model_name).version)


def previous_version(storage_uri: str, model_name: str = DEFAULT_MODEL) -> ModelVersion:
    """The version that ``rollback`` goes back to. Raises TrackingError if there is none."""
    found = _lookup(open_client(storage_uri), storage_uri, model_name, PREVIOUS)
    if found is None:
        raise TrackingError(
            f"no version '{PREVIOUS}' of this model to go back to",
            code="unknown_version",
            key=model_name,
            remedy="a second promotion makes one",
        )
    return found


def fetch(storage_uri: str, version: ModelVersion) -> Path:
    """The local checkpoint folder of a version: copied once per host, its files checked by their hash.

    Raises CheckpointError if the files are not those that were registered, StorageError or TrackingError
    if they cannot be read.
    """
    target = _cache() / "models" / version.content
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
            folder = Path(scratch) / "checkpoint"
            _download(storage_uri, version, folder)
            _check(folder, version)
            # Another process may have put the same files in place meanwhile.
            with contextlib.suppress(OSError):
                folder.rename(target)
    _check(target, version)
    return target


def _download(storage_uri: str, version: ModelVersion, folder: Path) -> None:
    if storage.is_remote(version.source):
        storage.get_folder(version.source, folder)
        return
    _, _, rest = version.source.partition("runs:/")
    run_id, _, artifact = rest.partition("/")
    with tracking_errors(tracking_uri(storage_uri)):
        client = open_client(storage_uri)
        copied = folder.with_name("copied")
        copied.mkdir()
        Path(client.download_artifacts(run_id, artifact, str(copied))).rename(folder)


def _check(folder: Path, version: ModelVersion) -> None:
    if _hashes(folder)[1] != version.content:
        raise CheckpointError(
            f"does not hold the files of {version.name} version {version.version} "
            f"(SHA-256 {version.content[:12]}...)",
            code="other_files",
            key=folder,
            remedy=f"delete the folder to fetch them again from {version.source}",
        )


@contextlib.contextmanager
def _local_checkpoint(uri: str) -> Iterator[Path]:
    if not storage.is_remote(uri):
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="kineray-register-") as scratch:
        folder = Path(scratch) / "checkpoint"
        storage.get_folder(uri, folder)
        yield folder


def _lookup(
    client: "MlflowClient", storage_uri: str, model_name: str, alias_or_number: str | int
) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    wanted = str(alias_or_number)
    with tracking_errors(tracking_uri(storage_uri)):
        try:
            if wanted.isdigit():
                return _from_mlflow(client.get_model_version(model_name, wanted))
            return _from_mlflow(client.get_model_version_by_alias(model_name, wanted))
        except MlflowException as error:
            # MLflow reports an alias that is not set as an invalid parameter.
            if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                return None
            raise


def _create_model(client: "MlflowClient", model_name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _from_mlflow(version: Any) -> ModelVersion:
    if "content" not in version.tags:
        raise TrackingError(
            f"version {version.version} was not registered by kineray, or by an older one",
            code="foreign_version",
            key=version.name,
            remedy="promote its run again: kineray promote RUN",
        )
    return ModelVersion(
        name=version.name,
        version=int(version.version),
        source=version.source,
        sha256=version.tags["sha256"],
        content=version.tags["content"],
        run_name=version.tags["run_name"],
    )


def _hashes(folder: Path) -> tuple[str, str]:
    """SHA-256 of the weights that the model is served with, and of all files that define the model."""
    hashes = {name: _sha256(folder / name) for name in _DESCRIPTIONS}
    weights = weights_file(str(folder))
    hashes[weights] = _sha256(folder / weights)
    listed = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return hashes[weights], hashlib.sha256(listed.encode()).hexdigest()


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"not in a checkpoint folder: {error.strerror}", code="not_a_checkpoint", key=path
        ) from None


def _cache() -> Path:
    return Path(os.environ.get("KINERAY_CACHE") or Path.home() / ".cache" / "kineray")
