"""Checkpoints: folders that anyone can open, with nothing in them that could execute code."""

import hashlib
import io
import json
import logging
import math
import shutil
import tempfile
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from kineray import storage
from kineray.config import Experiment
from kineray.data import Preprocessing
from kineray.errors import CheckpointError
from kineray.storage.durable import make_folder, sync_folder
from kineray.storage.os_errors import os_errors_about
from kineray.tasks import Task
from kineray.training.checkpoint_files import (
    ANOTHER,
    EXPERIMENT,
    INDEX,
    MODEL_WEIGHTS,
    OPTIMIZER,
    SCRATCH,
    STATE,
    WEIGHTS,
    damaged,
    file_of,
    parse_json,
    read_file,
    read_json,
)
from kineray.training.checkpoint_writing import write_checkpoint
from kineray.training.kept import preprocessing_in, state_and_experiment
from kineray.training.state import TrainingState

log = logging.getLogger(__name__)

_DAMAGE = {"damaged", "not_found", "not_text"}  # codes of an error about a file, which others need not have


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


class CheckpointStore:
    """The checkpoints of one run below ``uri`` (``<run>/checkpoints``, a local path or s3://).

    The last is kept, the one before it (in case the last is damaged) and the best. A checkpoint becomes
    visible whole: local folders are written under a temporary name and renamed, on S3 state.json is uploaded
    last, and index.json, which names them, is written after that. On return, the disk has all of it.
    """

    def __init__(self, uri: str) -> None:
        self.uri = str(uri)

    def last(self) -> str | None:
        """URI of the newest checkpoint; None if there is none yet."""
        return self._named("last")

    def best(self) -> str | None:
        """URI of the checkpoint with the highest score; None if none has a score yet."""
        return self._named("best")

    def last_step(self) -> int:
        """The step of ``last()``; 0 if there is none yet."""
        return int(self._index().get("last", "step-0").removeprefix("step-"))

    def load_last(self) -> tuple[str, TrainingState] | None:
        """URI and content of the newest checkpoint; None if there is none yet.

        One that is damaged is left out, with a warning, and is from then on neither the last nor the best.
        Raises CheckpointError if all are damaged, StorageError if the storage cannot be read.
        """
        index, damage = self._index(repair=True), list[CheckpointError]()
        for role in ("last", "previous", "best"):
            if role not in index:
                continue
            try:
                uri = storage.join(self.uri, index[role])
                state = load_training_state(uri)
            except CheckpointError as error:
                if error.code not in _DAMAGE:
                    raise
                damage.append(error)
                continue
            if damage:
                log.warning("%s; continuing from the checkpoint before it, %s", damage[0], index[role])
                self._use(index[role])
            return uri, state
        if damage:
            raise damage[0]
        return None

    def best_score(self) -> float | None:
        """The score of ``best()``."""
        score = self._index().get("best_score")
        return None if score is None else float(score)

    def save(
        self,
        saved: TrainingState,
        preprocessing: Preprocessing,
        *,
        score: float | None = None,
        weights: str = MODEL_WEIGHTS,
    ) -> tuple[str, bool]:
        """Write ``saved``; returns the URI of the checkpoint and whether its score is the best.

        ``score``: None without a validation. ``weights``: the piece whose weights evaluate, or ``model``.
        Older checkpoints other than the one before and the best are deleted. Raises StorageError.
        """
        name = f"step-{saved.state['step']:08d}"
        uri = storage.join(self.uri, name)
        folder = self._scratch_folder()
        try:
            described = saved.state | {"score": score, "weights": weights}
            with os_errors_about(folder if storage.is_remote(uri) else uri):
                write_checkpoint(folder, saved, preprocessing, described)
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
        if index.get("last", name) != name:
            index["previous"] = index["last"]
        index["last"] = name
        if best:
            index |= {"best": name, "best_score": score}
        self._write_index(index)
        for old in self._steps():
            if old not in (index["last"], index.get("previous"), index.get("best")):
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

    def _steps(self) -> list[str]:
        """Names of the folders of checkpoints, complete or not, oldest first."""
        return [name for name in storage.list_names(self.uri) if name.startswith("step-")]

    def _index(self, *, repair: bool = False) -> dict[str, Any]:
        path = storage.join(self.uri, INDEX)
        if not storage.exists(path):
            return {}
        try:
            return parse_json(path, storage.read_bytes(path))
        except CheckpointError as error:
            log.warning("%s: %s; the checkpoints beside it are used", path, error.problem)
        index = self._index_of(self._steps())
        if repair:
            self._write_index(index)
        return index

    def _index_of(self, names: list[str]) -> dict[str, Any]:
        """What index.json has to say about these checkpoints, by their own states."""
        index: dict[str, Any] = {}
        for name in names:
            try:
                path = storage.join(self.uri, name, STATE)
                score = read_json(path).get("score")
            except CheckpointError:  # not complete
                continue
            index |= {"previous": index["last"]} if index else {}
            index["last"] = name
            if score is not None and score > index.get("best_score", -math.inf):
                index |= {"best": name, "best_score": score}
        return index

    def _use(self, name: str) -> None:
        """Make a checkpoint the last one: those after it are no longer named."""
        self._write_index(self._index_of([step for step in self._steps() if step <= name]))

    def _write_index(self, index: dict[str, Any]) -> None:
        storage.write_bytes(storage.join(self.uri, INDEX), json.dumps(index, indent=2).encode())


def load_checkpoint(uri: str, device: str = "cpu") -> Checkpoint:
    """Load the model of a checkpoint folder, or of a run folder (its best checkpoint, else its last).

    Raises CheckpointError for anything that is missing, damaged or does not fit together, and StorageError
    for a storage that cannot be read.
    """
    folder = _resolve(str(uri))
    state, experiment = state_and_experiment(folder)
    preprocessing = preprocessing_in(folder)
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
    """Load what a run resumes from, of a checkpoint folder. Raises CheckpointError and StorageError."""
    state, experiment = state_and_experiment(uri)
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
