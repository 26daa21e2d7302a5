"""How a process of Ray is set up, and what it makes of an error."""

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

UNFORESEEN = "worker_exception"  # the code of an error that other code than kineray's raised

# Code that is not the user's: of a traceback, the last line outside of it says where to look.
_LIBRARIES = {"kineray", "numpy", "ray", "torch", "torchvision"} | set(sys.stdlib_module_names)


def enter(task: WorkerTask, cpus: int) -> Experiment:
    """Set this process up for ``task``, with ``cpus`` threads: the first thing any process of Ray does."""
    import torch

    torch.set_num_threads(cpus)  # Ray sets OMP_NUM_THREADS to 1
    for plugin in task.plugins:
        plugin.execute()
    return from_yaml(task.experiment)


def shared_manifest(task: WorkerTask) -> Manifest:
    """The manifest of a task. Raises ConfigError unless this host sees it and the folder of the run."""
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
        raise ConfigError(
            f"{error.problem} (on host {host})", code=error.code, key=error.key, remedy=error.remedy
        ) from error


def started(rank: int) -> WorkerStarted:
    """The message with which a worker introduces itself."""
    return WorkerStarted(rank, socket.gethostname(), os.getpid())


def failed(rank: int, error: Exception) -> WorkerFailed:
    """The message with which a worker reports ``error``, which it has just caught."""
    text = "".join(traceback.format_exception(error))
    return WorkerFailed(rank, socket.gethostname(), described(error), text, is_final(error))


def described(error: BaseException) -> KinerayError:
    """``error`` in one line: itself, or for other than kineray's own, its type, message and place."""
    if isinstance(error, KinerayError):
        return error
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return KinerayError(
        f"{type(error).__name__}{': ' * bool(message)}{message}{_place(error.__traceback__)}",
        code=UNFORESEEN,
    )


def is_final(error: BaseException) -> bool:
    """Whether a new worker would fail in the same way.

    Training is exact, so what code raised at a step it raises there again; only what is lost from
    outside (a host, a connection, a disk, memory of the device) may be there the next time.
    """
    if isinstance(error, KinerayError):
        return not isinstance(error, StorageError)
    from_outside = isinstance(error, OSError | MemoryError) or _package(type(error).__module__) in {
        "ray",
        "torch",
    }
    return not from_outside and not is_echo(error)


def is_echo(error: BaseException) -> bool:
    """Whether ``error`` only says that another worker is gone: that one's own error is the cause."""
    from kineray.training import synchronise

    return any(
        name == synchronise.__name__ or name.startswith("torch.distributed")
        for name in _modules(error.__traceback__)
    )


def _modules(trace: TracebackType | None) -> list[str]:
    return [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(trace)]


def _place(trace: TracebackType | None) -> str:
    """`` (file:line in function)``: the user's innermost line, or where there is none, kineray's."""
    steps = list(traceback.walk_tb(trace))
    packages = [_package(name) for name in _modules(trace)]
    theirs = [step for step, package in zip(steps, packages, strict=True) if package not in _LIBRARIES]
    ours = [step for step, package in zip(steps, packages, strict=True) if package == "kineray"]
    for frame, line in (theirs or ours or steps)[-1:]:
        return f" ({frame.f_code.co_filename}:{line} in {frame.f_code.co_name})"
    return ""


def _package(module: str) -> str:
    return module.partition(".")[0]
