"""The connection to MLflow, and how its failures are reported to the user."""

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from kineray import storage
from kineray.errors import TrackingError
from kineray.network import bypass_proxies

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "kineray"  # the MLflow experiment that holds all runs
_LONGEST_WAIT_S = 60.0  # for another process that opens the same database

# MLflow's own limits (two minutes, seven retries) would block a command for a quarter of an hour.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
}

_LOCATIONS = {"artifact_location": "experiments", "artifact_uri": "runs"}

_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}  # MLflow would answer the same again


def tracking_uri(storage_uri: str) -> str:
    """``MLFLOW_TRACKING_URI``, or the SQLite file of the storage folder ``storage_uri``.

    Remote storage cannot hold a SQLite file; its default is ``./runs/mlflow.db``.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(storage_uri)


def default_uri(storage_uri: str) -> str:
    """The SQLite file that belongs to a storage folder."""
    return sqlite_uri(local_folder(storage_uri) / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The URI of a SQLite file, from which MLflow and Optuna read its path."""
    path = str(file)
    if path == _unquoted(path):
        return f"sqlite:///{path}"
    # With this scheme MLflow does not take the quoted path for one, and make its folders.
    return f"sqlite+pysqlite:///{quote(path)}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI, None for that of a server."""
    scheme, _, path = uri.partition(":///")
    return Path(_unquoted(path)) if scheme in ("sqlite", "sqlite+pysqlite") else None


def _unquoted(path: str) -> str:
    return unquote(path.partition("?")[0])


def local_folder(storage_uri: str) -> Path:
    """The absolute local folder for a storage folder: the folder itself, or ``./runs`` if it is remote."""
    return Path("./runs" if storage.is_remote(storage_uri) else storage_uri).absolute()


def open_client(storage_uri: str, uri: str | None = None) -> "MlflowClient":
    """A client of the tracker of ``storage_uri``, in which the experiment ``kineray`` exists.

    Raises TrackingError if MLflow cannot be reached.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    bypass_proxies()  # for a server on this host
    from mlflow import MlflowClient

    # After the import, which configures these loggers. Below these levels they log nothing that users need.
    for noisy, level in (("mlflow", logging.WARNING), ("alembic", logging.WARNING)):
        logging.getLogger(noisy).setLevel(level)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    uri = uri or tracking_uri(storage_uri)
    if (file := sqlite_file(uri)) is not None:
        with contextlib.suppress(OSError):  # SQLite reports the same problem below
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()  # SQLite would let only its owner write it, whatever the umask
    with tracking_errors(uri), _one_at_a_time(uri):
        client = MlflowClient(uri, registry_uri=uri)
        # A server decides where its artifacts go; with a SQLite file they go into the storage.
        artifacts = _artifacts(storage_uri) if uri == default_uri(storage_uri) else None
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            _create_experiment(client, artifacts)
        elif artifacts and file and _is_local(artifacts) and _is_local(experiment.artifact_location):
            _move_artifacts(file, experiment.artifact_location, artifacts)
    return client


def _artifacts(storage_uri: str) -> str:
    folder = storage.absolute(storage.join(storage_uri, "artifacts"))
    is_quoted = folder != _unquoted(folder) and not storage.is_remote(storage_uri)
    return Path(folder).as_uri() if is_quoted else folder


def _is_local(location: str) -> bool:
    return location.startswith(("/", "file:"))


def _move_artifacts(file: Path, before: str, now: str) -> None:
    """Correct MLflow's absolute paths in the database of a storage folder that was moved or copied."""
    if before == now:
        return
    with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(file)) as database:
        for column, table in _LOCATIONS.items():
            database.execute(
                f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                f"WHERE substr({column} || '/', 1, length(:before) + 1) = :before || '/'",
                {"now": now, "before": before},
            )
        database.commit()


@contextlib.contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keep other processes from opening the same SQLite file: two that make its tables fail."""
    file = sqlite_file(uri)
    if file is None:
        yield
        return
    with contextlib.ExitStack() as opened:
        with contextlib.suppress(OSError):  # no such folder, or one without locks
            folder = os.open(file.parent, os.O_RDONLY)
            opened.callback(os.close, folder)
            _lock(folder, time.monotonic() + _LONGEST_WAIT_S)
        yield


def _lock(descriptor: int, deadline: float) -> None:
    """Lock a file until it is closed, or go on without: a process that was stopped must not stop others."""
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(0.05)


def check_tracking(storage_uri: str) -> None:
    """Raise TrackingError unless the tracker of ``storage_uri`` answers. Creates no new database."""
    if has_tracker(storage_uri):
        open_client(storage_uri)


def has_tracker(storage_uri: str) -> bool:
    """Whether there is a tracker of ``storage_uri``; otherwise its database is yet to be created."""
    uri = tracking_uri(storage_uri)
    file = sqlite_file(uri)
    return uri != default_uri(storage_uri) or bool(file and file.exists())


def experiment_id(client: "MlflowClient") -> str:
    """The id of the experiment, which ``open_client`` created if it did not exist."""
    return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)


def _create_experiment(client: "MlflowClient", artifacts: str | None) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
            raise


@contextlib.contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its artifact store raises into a TrackingError.

    Its code is ``refused`` if MLflow answered and would answer the same again, else ``unreachable``.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    failures = (MlflowException, SQLAlchemyError, RequestException, BotoCoreError, ClientError, OSError)
    try:
        yield
    except failures as error:
        if getattr(error, "error_code", "") in _REFUSALS:
            raise TrackingError(
                f"MLflow refuses it: {_reason(error)}", code="refused", key=without_password(uri)
            ) from error
        raise TrackingError(
            f"MLflow cannot be reached: {_reason(error)}",
            code="unreachable",
            key=without_password(uri),
            remedy="check MLFLOW_TRACKING_URI and the server"
            if uri.startswith("http")
            else "check that the file can be written",
        ) from error


def _reason(error: Exception) -> str:
    """The cause of a failed request in a few words."""
    text = " ".join(str(error).split())
    for sign, meaning in (
        ("Connection refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("Name or service not known", "unknown host name"),
        ("Invalid Host header", "the server refuses this host name (its --allowed-hosts)"),
    ):
        if sign in text:
            return meaning
    return text if len(text) <= 200 else text[:200] + "..."


def without_password(uri: str) -> str:
    """``uri`` without the user name and password in it, if it has both."""
    parts = urlsplit(uri)
    return uri.replace(f"{parts.username}:{parts.password}@", "") if parts.password else uri
