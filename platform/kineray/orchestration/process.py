"""Setting up a worker process, and reporting its errors."""

import errno
import os
import socket
import sys
import traceback
from types import TracebackType

from kineray import storage
from kineray.config import Experiment, from_yaml
from kineray.data import Manifest, load_manifest
from kineray.errors import ConfigError, KinerayError, ManifestError, StorageError
from kineray.orchestration.messages import WorkerFailed, WorkerStarted, WorkerTask
from kineray.storage.os_errors import os_errors_about
from kineray.threads import wait_without_spinning

WORKER_EXCEPTION = "worker_exception"  # the code of an error that is not one of kineray's own

# Packages that are not the user's: an error is reported with the innermost line outside of them.
_LIBRARIES = {"kineray", "numpy", "pydantic", "ray", "torch", "torchvision"} | set(sys.stdlib_module_names)


def set_up_process(task: WorkerTask, cpus: int) -> Experiment:
    """Prepare this process for ``task``, with ``cpus`` threads: the first thing that any worker does."""
    wait_without_spinning()
    import torch

    torch.set_num_threads(cpus)  # Ray sets OMP_NUM_THREADS to 1
    for plugin in task.plugins:
        plugin.execute()
    return from_yaml(task.experiment)


def shared_manifest(task: WorkerTask) -> Manifest:
    """The manifest of a task. Raises ConfigError unless this host can see it and the run's folder."""
    host = socket.gethostname()
    try:
        if not storage.exists(storage.join(task.folder, "experiment.yaml")):
            raise ConfigError(
                f"the run's folder is not visible on host {host}",
                code="storage_not_shared",
                key=task.folder,
                remedy="set `storage` to a folder that all hosts share, such as s3://...",
            )
        return load_manifest(task.manifest)
    except (ManifestError, StorageError) as error:
        if isinstance(error, StorageError) and error.is_transient:
            raise
        raise ConfigError(
            f"{error.problem} (on host {host})", code=error.code, key=error.key, remedy=error.remedy
        ) from error


def start_message(rank: int, workers: int) -> WorkerStarted:
    """The message that a worker, one of ``workers``, sends when it starts."""
    return WorkerStarted(rank, workers, socket.gethostname(), os.getpid())


def failure_message(rank: int, error: Exception) -> WorkerFailed:
    """The message that a worker sends about ``error``, which it has just caught."""
    text = "".join(traceback.format_exception(error))
    return WorkerFailed(rank, socket.gethostname(), as_kineray_error(error), text, is_permanent(error))


def as_kineray_error(error: BaseException) -> KinerayError:
    """``error`` itself if it is one of kineray's, else one with its type, message, file and line."""
    error = _of_disk(error)
    if isinstance(error, KinerayError):
        return error
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return KinerayError(
        f"{type(error).__name__}{': ' * bool(message)}{message}{_place(error.__traceback__)}",
        code=WORKER_EXCEPTION,
    )


def is_permanent(error: BaseException) -> bool:
    """Whether a new worker would fail in the same way.

    Training is deterministic, so code that raised at a step would raise there again. Only external causes
    (a lost host or connection, memory of the device) may be gone the next time. A full disk is not: someone
    has to make room.
    """
    error = _of_disk(error)
    if isinstance(error, KinerayError):
        return not (isinstance(error, StorageError) and error.is_transient)
    is_external = isinstance(error, OSError | MemoryError) or _package(type(error).__module__) in {
        "ray",
        "torch",
    }
    return not is_external and not is_lost_peer(error)


def _of_disk(error: BaseException) -> BaseException:
    """The StorageError of a disk that is full, whatever wrote to it; any other error as it is."""
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return error
    try:
        with os_errors_about(error.filename or f"a disk of {socket.gethostname()}"):
            raise error
    except StorageError as full:
        return full


def is_lost_peer(error: BaseException) -> bool:
    """Whether ``error`` only reports that another worker is gone, whose own error is the cause."""
    from kineray.training import synchronise

    return any(
        name == synchronise.__name__ or name.startswith("torch.distributed")
        for name in _modules(error.__traceback__)
    )


def _modules(trace: TracebackType | None) -> list[str]:
    return [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace)]


def _place(trace: TracebackType | None) -> str:
    """`` (file:line in function)``: the innermost line of the user's code, or else of kineray's."""
    steps = list(traceback.walk_tb(trace))
    packages = [_package(name) for name in _modules(trace)]
    users = [step for step, package in zip(steps, packages, strict=True) if package not in _LIBRARIES]
    kinerays = [step for step, package in zip(steps, packages, strict=True) if package == "kineray"]
    for frame, line in (users or kinerays or steps)[-1:]:
        return f" ({frame.f_code.co_filename}:{line} in {frame.f_code.co_name})"
    return ""


def _package(module: str) -> str:
    return module.partition(".")[0]
