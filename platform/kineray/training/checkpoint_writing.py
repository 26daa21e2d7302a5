"""Writing the files of a checkpoint."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from kineray.config import plugins_of, to_yaml
from kineray.data import Preprocessing
from kineray.storage.durable import sync_folder, write_file
from kineray.training.checkpoint_files import (
    EXPERIMENT,
    FORMAT,
    OPTIMIZER,
    PREPROCESSING,
    STATE,
    WEIGHTS,
    file_of,
)
from kineray.training.state import TrainingState


def write_checkpoint(
    folder: Path, saved: TrainingState, preprocessing: Preprocessing, state: dict[str, Any]
) -> None:
    """Write the files of a checkpoint, with ``state`` in state.json; on return the disk has them.

    Raises OSError.
    """
    tensors = {WEIGHTS: saved.weights} | {file_of(name): piece for name, piece in saved.pieces.items()}
    hashes: dict[str, str] = {}
    write_file(folder / EXPERIMENT, to_yaml(saved.experiment).encode())
    write_file(folder / PREPROCESSING, preprocessing.to_json().encode())
    _save_optimizer(folder / OPTIMIZER, saved.optimizer)
    for name, named in tensors.items():
        hashes[name] = _save_tensors(folder / name, named)
    plugins = {plugin.name: plugin.sha256 for plugin in plugins_of(saved.experiment)}
    pieces = list(saved.pieces)
    described = {"format": FORMAT, **state, "plugins": plugins, "pieces": pieces, "sha256": hashes}
    write_file(folder / STATE, json.dumps(described, indent=2).encode())
    sync_folder(folder)


def _save_optimizer(path: Path, optimizer: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(optimizer, file)
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
