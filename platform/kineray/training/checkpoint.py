"""Checkpoints: folders that anyone can open, with nothing in them that could execute code."""

import hashlib
import io
import json
import os
import re
import shutil
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kineray import storage
from kineray.config import Experiment, from_yaml, plugins_of, to_yaml
from kineray.config.plugins import require_plugins
from kineray.data import Preprocessing
from kineray.errors import CheckpointError, ConfigError, KinerayError
from kineray.storage.durable import make_folder, sync_folder, write_file
from kineray.storage.os_errors import os_errors_about
from kineray.tasks import Task
from kineray.training.checkpoint_files import (
    ANOTHER,
    EXPERIMENT,
    FORMAT,
    INDEX,
    MODEL_WEIGHTS,
    OPTIMIZER,
    PREPROCESSING,
    SCRATCH,
    STATE,
    WEIGHTS,
    damaged,
    file_of,
    parse_json,
    read_file,
    read_json,
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in evaluation mode, and all that is needed to use it.

    ``state`` is the content of state.json. Its ``weights`` says which weights the model has, those that
    evaluate, export and serve: its own (``model``) or those of a piece of the recipe, such as ``ema``.
    ``weights_sha256`` is the hash of their file.
    """

    uri: str
    model: nn.Module
    experiment: Experiment
    preprocessing: Preprocessing
    state: dict[str, Any]
    weights_sha256: str

    @cached_property
    def task(self) -> Task:
        """What the model was trained for."""
        return self.experiment.task.build(self.preprocessing.labels)


@dataclass(frozen=True)
class TrainingState:
    """What a run resumes from: tensors of model, optimizer and recipe pieces, state.json, experiment."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    pieces: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    experiment: Experiment


class CheckpointStore:
    """The checkpoints of one run below ``uri`` (``<run>/checkpoints``, a local path or s3://): last and best.

    A checkpoint becomes visible whole: local folders are written under a temporary name and renamed, on
    S3 state.json is uploaded last, and index.json, which names last and best, is written after that.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(uri)

    def last(self) -> str | None:
        """URI of the newest checkpoint; None if there is none yet."""
        return self._named("last")

    def best(self) -> str | None:
        """URI of the checkpoint with the highest score; None if none has a score yet."""
        return self._named("best")

    def best_score(self) -> float | None:
        """The score of ``best()``."""
        score = self._index().get("best_score")
        return None if score is None else float(score)

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        experiment: Experiment,
        preprocessing: Preprocessing,
        state: dict[str, Any],
        *,
        score: float | None = None,
        pieces: Mapping[str, Mapping[str, Tensor]] | None = None,
        weights: str = MODEL_WEIGHTS,
    ) -> tuple[str, bool]:
        """Write the checkpoint of ``state["step"]``; returns its URI and whether its score is the best.

        ``score``: None without a validation. ``pieces``: the states of the recipe's pieces
        (``Recipe.states``). ``weights``: the piece whose weights evaluate, or ``model``. Older checkpoints
        other than the best are deleted. Raises StorageError.
        """
        name = f"step-{state['step']:08d}"
        uri = storage.join(self.uri, name)
        folder = self._scratch_folder()
        try:
            described = state | {"score": score, "weights": weights}
            with os_errors_about(folder if storage.is_remote(uri) else uri):
                _write(folder, model, optimizer, experiment, preprocessing, pieces or {}, described)
            if storage.is_remote(uri):
                storage.put_folder(folder, uri, commit_last=STATE)
            else:
                storage.delete_folder(uri)  # left by a save that did not reach the index
                with os_errors_about(uri):
                    folder.rename(uri)
                    sync_folder(folder.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        index = self._index()
        best_score = index.get("best_score")
        best = score is not None and (best_score is None or score > best_score)
        index["last"] = name
        if best:
            index |= {"best": name, "best_score": score}
        storage.write_bytes(storage.join(self.uri, INDEX), json.dumps(index, indent=2).encode())
        for old in storage.list_names(self.uri):
            if old.startswith("step-") and old not in (index["last"], index.get("best")):
                storage.delete_folder(storage.join(self.uri, old))
        return uri, best

    def _scratch_folder(self) -> Path:
        """An empty folder to assemble a checkpoint in; beside its destination if local, for a rename."""
        parent = Path(tempfile.gettempdir() if storage.is_remote(self.uri) else self.uri)
        folder = parent / f"{SCRATCH}{uuid.uuid4().hex}"
        with os_errors_about(parent):
            make_folder(folder)
            if not storage.is_remote(self.uri):
                for left_by_a_killed_process in set(parent.glob(f"{SCRATCH}*")) - {folder}:
                    shutil.rmtree(left_by_a_killed_process)
                for left_by_a_killed_process in parent.glob(f".{INDEX}.*.tmp"):
                    left_by_a_killed_process.unlink()
        return folder

    def _named(self, role: str) -> str | None:
        name = self._index().get(role)
        return None if name is None else storage.join(self.uri, name)

    def _index(self) -> dict[str, Any]:
        path = storage.join(self.uri, INDEX)
        return parse_json(path, storage.read_bytes(path)) if storage.exists(path) else {}


def load_checkpoint(uri: str, device: str = "cpu") -> Checkpoint:
    """Load the model of a checkpoint folder, or of a run folder (its best checkpoint, else its last).

    Raises CheckpointError for anything that is missing, damaged or does not fit together.
    """
    folder = _resolve(str(uri))
    state, experiment = _state_and_experiment(folder)
    path = storage.join(folder, PREPROCESSING)
    try:
        preprocessing = Preprocessing.from_json(read_file(path))
    except CheckpointError:
        raise
    except KinerayError as error:
        raise damaged(path, str(error)) from None
    name = file_of(state["weights"])
    weights, sha256 = _tensors(folder, name, state)
    task = experiment.task.build(preprocessing.labels)
    model = task.build_model(experiment.model, preprocessing.channels)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"{name} is not of the model in {EXPERIMENT}: {reason}",
            code="other_model",
            key=folder,
            remedy=ANOTHER,
        ) from None
    return Checkpoint(folder, model.to(device).eval(), experiment, preprocessing, state, sha256)


def load_training_state(uri: str) -> TrainingState:
    """Load what a run resumes from, of a checkpoint folder. Raises CheckpointError."""
    state, experiment = _state_and_experiment(uri)
    weights, _ = _tensors(uri, WEIGHTS, state)
    pieces = {name: _tensors(uri, file_of(name), state)[0] for name in state["pieces"]}
    path = storage.join(uri, OPTIMIZER)
    try:
        optimizer = torch.load(io.BytesIO(read_file(path)), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception:  # torch raises many kinds of error for a damaged file; its content is never run
        raise damaged(path, "not the state of an optimizer") from None
    return TrainingState(weights, optimizer, pieces, state, experiment)


def _write(
    folder: Path,
    model: nn.Module,
    optimizer: Optimizer,
    experiment: Experiment,
    preprocessing: Preprocessing,
    pieces: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
) -> None:
    """Write the files of a checkpoint; on return the disk has them. Raises OSError."""
    tensors = {WEIGHTS: model.state_dict()} | {file_of(name): piece for name, piece in pieces.items()}
    hashes: dict[str, str] = {}
    write_file(folder / EXPERIMENT, to_yaml(experiment).encode())
    write_file(folder / PREPROCESSING, preprocessing.to_json().encode())
    _save_optimizer(folder / OPTIMIZER, optimizer)
    for name, named in tensors.items():
        hashes[name] = _save_tensors(folder / name, named)
    plugins = {plugin.name: plugin.sha256 for plugin in plugins_of(experiment)}
    described = {"format": FORMAT, **state, "plugins": plugins, "pieces": list(pieces), "sha256": hashes}
    write_file(folder / STATE, json.dumps(described, indent=2).encode())
    sync_folder(folder)


def _save_optimizer(path: Path, optimizer: Optimizer) -> None:
    with path.open("wb") as file:
        try:
            torch.save(optimizer.state_dict(), file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides why the file could not be written
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file; returns its SHA-256."""
    write_file(path, b"")
    mode = path.stat().st_mode  # safetensors gives its files to their owner alone, whatever the umask
    try:
        safetensors.torch.save_file(_unshared(tensors), path, metadata={"format": "pt"})
    except safetensors.SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]), os.strerror(int(number[1]))) if number else error from None
    path.chmod(mode)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU; those that share memory, such as tied weights, are copied."""
    on_cpu = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    uses = Counter(value.untyped_storage().data_ptr() for value in on_cpu.values())
    return {
        key: value.clone() if uses[value.untyped_storage().data_ptr()] > 1 else value
        for key, value in on_cpu.items()
    }


def _resolve(uri: str) -> str:
    """The checkpoint folder that ``uri`` names: itself, or the best (else the last) of a run."""
    if storage.exists(storage.join(uri, STATE)):
        return uri
    for place in (uri, storage.join(uri, "checkpoints")):
        store = CheckpointStore(place)
        found = store.best() or store.last()
        if found is not None:
            return found
    problem = f"it has no {STATE}" if storage.exists(uri) else "no such folder"
    raise CheckpointError(
        f"not a checkpoint: {problem}",
        code="not_a_checkpoint",
        key=uri,
        remedy="give a checkpoint folder or a run folder",
    )


def _state_and_experiment(folder: str) -> tuple[dict[str, Any], Experiment]:
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


def _tensors(folder: str, name: str, state: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    """The content of a file of tensors, and its SHA-256."""
    path = storage.join(folder, name)
    content = read_file(path)
    sha256 = hashlib.sha256(content).hexdigest()
    if state["sha256"].get(name) != sha256:
        raise damaged(path, f"its sha256 is not the one in {STATE}")
    try:
        return safetensors.torch.load(content), sha256
    except safetensors.SafetensorError as error:
        raise damaged(path, f"not a safetensors file: {error}") from None
