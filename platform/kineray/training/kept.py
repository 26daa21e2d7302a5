"""The checkpoints that a run has kept: which there are, what they say, and copies. Needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineray import storage
from kineray.config import Experiment, from_yaml
from kineray.config.plugins import require_plugins
from kineray.data import Preprocessing
from kineray.errors import CheckpointError, ConfigError, KinerayError
from kineray.training.checkpoint_files import (
    ANOTHER,
    EXPERIMENT,
    FORMAT,
    INDEX,
    PREPROCESSING,
    STATE,
    damaged,
    parse_json,
    read_file,
    read_json,
)


@dataclass(frozen=True)
class Kept:
    """A checkpoint folder without its tensors. ``state``: the content of state.json."""

    uri: str
    state: dict[str, Any]
    experiment: Experiment
    preprocessing: Preprocessing

    @property
    def step(self) -> int:
        """How many steps its run had made."""
        return int(self.state["step"])

    @property
    def scores(self) -> list[float]:
        """The scores of all validations before it (0 to 1, the oldest first)."""
        return list(self.state.get("scores", ()))


def kept(uri: str) -> Kept:
    """What the checkpoint folder ``uri`` says. Raises CheckpointError and StorageError."""
    state, experiment = state_and_experiment(uri)
    return Kept(uri, state, experiment, preprocessing_in(uri))


def kept_steps(checkpoints: str) -> dict[int, str]:
    """{step: URI} of the complete checkpoints below ``checkpoints`` (``<run>/checkpoints``), oldest first."""
    names = [name for name in storage.list_names(checkpoints) if name.startswith("step-")]
    folders = {name: storage.join(checkpoints, name) for name in sorted(names)}
    complete = {name: uri for name, uri in folders.items() if storage.exists(storage.join(uri, STATE))}
    return {int(name.removeprefix("step-")): uri for name, uri in complete.items()}


def last_kept(checkpoints: str) -> str | None:
    """URI of the newest checkpoint below ``checkpoints``; None if there is none."""
    index = storage.join(checkpoints, INDEX)
    if not storage.exists(index):
        return None
    name = parse_json(index, storage.read_bytes(index)).get("last")
    return name and storage.join(checkpoints, name)


def copy_checkpoint(uri: str, checkpoints: str) -> None:
    """Make a copy of the checkpoint ``uri`` the first one of another run, below ``checkpoints``.

    It becomes visible whole. Raises CheckpointError and StorageError.
    """
    name = Path(uri).name
    state = read_json(storage.join(uri, STATE))
    files = sorted(storage.list_names(uri), key=lambda file: file == STATE)  # state.json makes it complete
    for file in files:
        storage.write_bytes(storage.join(checkpoints, name, file), read_file(storage.join(uri, file)))
    score = state.get("score")
    best = {} if score is None else {"best": name, "best_score": score}
    index = json.dumps({"last": name, **best}, indent=2).encode()
    storage.write_bytes(storage.join(checkpoints, INDEX), index)


def state_and_experiment(folder: str) -> tuple[dict[str, Any], Experiment]:
    """The content of state.json, and the experiment, of a checkpoint. Raises CheckpointError."""
    path = storage.join(folder, STATE)
    state = read_json(path)
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"has format {state.get('format')}, but this version of kineray reads format {FORMAT}",
            code="other_format",
            key=path,
            remedy="use the version of kineray that wrote it",
        )
    path = storage.join(folder, EXPERIMENT)
    try:
        require_plugins(state.get("plugins", {}), folder)
        return state, from_yaml(read_file(path).decode(), path)
    except UnicodeDecodeError:
        raise CheckpointError("not text in UTF-8", code="not_text", key=path, remedy=ANOTHER) from None
    except ConfigError as error:
        raise CheckpointError(error.problem, code=error.code, key=error.key, remedy=error.remedy) from None


def preprocessing_in(folder: str) -> Preprocessing:
    """The preprocessing of a checkpoint. Raises CheckpointError."""
    path = storage.join(folder, PREPROCESSING)
    try:
        return Preprocessing.from_json(read_file(path))
    except CheckpointError:
        raise
    except KinerayError as error:
        raise damaged(path, str(error)) from None
