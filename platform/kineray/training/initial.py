"""The weights that a new run starts from."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kineray import storage
from kineray.config import ModelSection
from kineray.errors import CheckpointError, ConfigError, StorageError
from kineray.training.checkpoint_files import EXPERIMENT, STATE, WEIGHTS, weights_file
from kineray.training.references import checkpoint_in, find_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from kineray.training.synchronise import Workers

_NAMED = "torchvision:"


def absolute_inits(model: ModelSection, runs: str | None = None) -> dict[str, str]:
    """Overrides that name the initial weights by paths that are valid in every working directory.

    ``runs``: the storage of the runs that they may name. Raises ConfigError for what does not exist.
    """
    found = {}
    for part, init in model.inits().items():
        try:
            found[_key(part)] = init if init.startswith(_NAMED) else _absolute(init, runs)
        except CheckpointError as error:
            raise ConfigError(
                error.problem, code="weights_not_usable", key=_key(part), value=init, remedy=error.remedy
            ) from None
    return found


def _absolute(init: str, runs: str | None) -> str:
    path = checkpoint_in(storage.absolute(find_checkpoint(init, runs)))
    if not storage.exists(path):  # a URI, which is taken for what it says
        raise CheckpointError("no such file or folder", code="not_found")
    return path


def init_hashes(model: ModelSection) -> dict[str, str]:
    """{dotted key: hash of the content} of the initial weights.

    torchvision's weights are identified by their name, which is never given to other weights. Raises
    StorageError for weights that do not exist.
    """
    return {_key(part): _content_hash(init) for part, init in model.inits().items()}


def _content_hash(init: str) -> str:
    if init.startswith(_NAMED):
        return init
    content = storage.read_bytes(storage.join(init, _checkpoint_files(init)[0]) if _is_folder(init) else init)
    return hashlib.sha256(content).hexdigest()


def initialise(model: "nn.Module", part: str, init: str, workers: "Workers") -> str:
    """Load the weights ``init`` into a part of the ``model`` of every worker; returns a message about them.

    Rank 0 alone reads them, from a local path, s3:// or torchvision. Raises ConfigError on every worker, and
    StorageError on rank 0 for a storage that may answer later.
    """
    message = problem = None
    if workers.rank == 0:
        try:
            message = load_initial(model, part, init)
        except ConfigError as error:
            problem = error
    message, problem = workers.gather((message, problem))[0]
    if problem is not None:
        raise problem
    workers.broadcast_(model)
    return str(message)


def load_initial(model: "nn.Module", part: str, init: str) -> str:
    """Load the weights ``init`` into a part of ``model``, which may be on the device ``meta``.

    Returns a message about them. Raises ConfigError for weights that cannot be read or do not fit, and
    StorageError for a storage that may answer later.
    """
    from kineray.models import load_weights

    try:
        with _local(init) as path:
            return str(load_weights(model.get_submodule(part), init, path=path))
    except (CheckpointError, StorageError) as error:
        if isinstance(error, StorageError) and error.is_transient:
            raise
        raise ConfigError(str(error), code="weights_not_usable", key=_key(part)) from error


def _key(part: str) -> str:
    return f"model.{part}.init" if part else "model.init"


@contextmanager
def _local(init: str) -> Iterator[str | Path]:
    """A local path with the content of ``init``; of a remote checkpoint, only the files that are read."""
    if init.startswith(_NAMED) or not storage.is_remote(init):
        yield init
    elif _is_folder(init):
        with tempfile.TemporaryDirectory(prefix="kineray-") as folder:
            for name in {WEIGHTS, *_checkpoint_files(init)}:
                Path(folder, name).write_bytes(storage.read_bytes(storage.join(init, name)))
            yield folder
    else:
        with storage.local_file(init) as path:
            yield path


def _is_folder(init: str) -> bool:
    return storage.exists(storage.join(init, WEIGHTS))


def _checkpoint_files(folder: str) -> list[str]:
    """The files that are read of a checkpoint; the first holds the weights, those that evaluate."""
    if storage.exists(storage.join(folder, STATE)):
        return [weights_file(folder), STATE, EXPERIMENT]
    return [WEIGHTS, EXPERIMENT]
