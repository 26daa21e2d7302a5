"""The files of a checkpoint: their names, and those that are read without torch."""

import json
from typing import Any

from kineray import storage
from kineray.errors import CheckpointError, StorageError

WEIGHTS = "model.safetensors"
OPTIMIZER = "optimizer.pt"
STATE = "state.json"
EXPERIMENT = "experiment.yaml"
PREPROCESSING = "preprocessing.json"
INDEX = "index.json"
RUN = "run.json"  # in the folder of a run: whose it is
SCRATCH = ".unfinished-"
FORMAT = 2
MODEL_WEIGHTS = "model"

ANOTHER = "copy it again, or use another checkpoint"


def weights_file(folder: str) -> str:
    """Name of the file, in a checkpoint folder, of the weights that evaluate, export and serve.

    Raises CheckpointError.
    """
    return file_of(str(read_json(storage.join(folder, STATE)).get("weights", MODEL_WEIGHTS)))


def file_of(name: str) -> str:
    """The file of a piece with tensors, such as the weights that ``name`` names."""
    return f"{name}.safetensors"


def read_json(path: str) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError."""
    return parse_json(path, read_file(path))


def parse_json(path: str, content: bytes) -> dict[str, Any]:
    """The JSON object that is the content of a file. Raises CheckpointError."""
    try:
        value = json.loads(content)
    except ValueError:
        raise damaged(path, "not valid JSON") from None
    if not isinstance(value, dict):
        raise damaged(path, "not a JSON object")
    return value


def read_file(path: str) -> bytes:
    """The content of a file. Raises CheckpointError if there is none, StorageError if it cannot be read."""
    try:
        return storage.read_bytes(path)
    except StorageError as error:
        if error.code != "not_found":
            raise
        raise CheckpointError(error.problem, code=error.code, key=error.key, remedy=ANOTHER) from None


def damaged(path: str, problem: str) -> CheckpointError:
    """The error of a file that is not what was written."""
    return CheckpointError(problem, code="damaged", key=path, remedy=ANOTHER)
