"""Reading files of weights, and weights that torchvision names: tensors by our names."""

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import safetensors
import safetensors.torch
import torch
import yaml
from torch import Tensor

from kineray.config import as_arguments
from kineray.errors import CheckpointError
from kineray.models.weights.caffe2 import read_caffe2
from kineray.models.weights.hints import public_settings
from kineray.models.weights.renames import from_caffe2, from_pyslowfast, from_pytorchvideo

CHECKPOINT_WEIGHTS = "model.safetensors"
CHECKPOINT_EXPERIMENT = "experiment.yaml"
CHECKPOINT_STATE = "state.json"
TORCHVISION = "torchvision"


@dataclass(frozen=True)
class Weights:
    """Tensors by our names (those of torchvision by torchvision's names), and other content of their file.

    ``origin``: the project that wrote the file. ``settings``: fields of the configuration that they were
    trained with, as far as known, written as in overrides. ``notes``: for the user. ``may_be_new``: {how to
    report a part of the network that these weights cannot have: a regular expression of its names}.
    """

    tensors: dict[str, Tensor]
    origin: str
    settings: Mapping[str, str]
    notes: tuple[str, ...] = ()
    may_be_new: Mapping[str, str] = field(default_factory=dict)


def read(init: str, path: Path) -> Weights:
    """Read the file or folder ``path``, or torchvision's weights ``init``. Raises CheckpointError."""
    if init.startswith(f"{TORCHVISION}:"):
        return _torchvision(init.removeprefix(f"{TORCHVISION}:"))
    try:
        return _read(path, Path(init).suffix)
    except FileNotFoundError:
        raise CheckpointError(
            "no such file or folder",
            code="not_found",
            remedy="give a checkpoint folder, a file of weights or torchvision:NAME",
        ) from None
    except OSError as error:
        raise CheckpointError(error.strerror or str(error), code="not_readable") from None


def _read(path: Path, suffix: str) -> Weights:
    """``suffix``: that of the original name; a local copy may have another."""
    if path.is_dir():
        file = path / CHECKPOINT_WEIGHTS
        if not file.exists():
            raise CheckpointError(
                f"a folder without {CHECKPOINT_WEIGHTS}",
                code="not_a_checkpoint",
                remedy="give a checkpoint folder, such as RUN/checkpoints/step-00001000",
            )
        return _kineray(path / _evaluated(path))
    if suffix == ".safetensors":
        return _kineray(path)
    if suffix == ".pkl" and not is_zipfile(path):
        tensors = from_caffe2(read_caffe2(path))
        return Weights(tensors, "Caffe2", public_settings(tensors))
    return _torch(path)


def _evaluated(folder: Path) -> str:
    """The file of the weights that a checkpoint is evaluated with; its state may name averaged ones."""
    try:
        name = json.loads((folder / CHECKPOINT_STATE).read_bytes())["weights"]
    except (OSError, ValueError, KeyError, TypeError):
        return CHECKPOINT_WEIGHTS
    return f"{name}.safetensors"


def _kineray(file: Path) -> Weights:
    try:
        tensors = safetensors.torch.load_file(file)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"not a safetensors file, or damaged: {error}", code="damaged") from None
    return Weights(tensors, "kineray", _kineray_settings(file.with_name(CHECKPOINT_EXPERIMENT)))


def _kineray_settings(path: Path) -> dict[str, str]:
    """The settings in the experiment beside the weights; empty for a model.safetensors without one."""
    try:
        return as_arguments(yaml.safe_load(path.read_text())["model"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}


def _torch(path: Path) -> Weights:
    with path.open("rb"):  # raises the reason if the file cannot be read; torch would call it damaged
        pass
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a damaged file; none of them runs its content
        raise CheckpointError(
            "damaged, or it holds more than weights and is therefore not loaded",
            code="damaged",
            remedy="download it from its publisher again",
        ) from None
    tensors = content.get("model_state", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not any(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError("there are no weights by name in it", code="not_weights")
    named = {str(name): value for name, value in tensors.items() if isinstance(value, Tensor)}
    for wrapper in ("module.", "model."):
        if all(name.startswith(wrapper) for name in named):
            named = {name.removeprefix(wrapper): value for name, value in named.items()}
    is_torchvisions_mvit = "conv_proj.weight" in named
    if any(name.startswith("blocks.0.") for name in named) and not is_torchvisions_mvit:
        tensors = from_pytorchvideo(named)
        return Weights(tensors, "PyTorchVideo", public_settings(tensors))
    if any(name.startswith("s1.pathway0_stem.") for name in named):
        tensors = from_pyslowfast(named)
        return Weights(tensors, "PySlowFast", public_settings(tensors) | _pyslowfast_settings(content))
    return Weights(named, TORCHVISION, {})


def _pyslowfast_settings(content: Mapping[str, Any]) -> dict[str, str]:
    """The settings in the configuration that PySlowFast stores with the weights, as YAML."""
    try:
        config = yaml.safe_load(str(content.get("cfg", "")))
    except yaml.YAMLError:
        return {}
    settings = {}
    for key, section, name in (
        ("alpha", "SLOWFAST", "ALPHA"),
        ("nonlocal_form", "NONLOCAL", "INSTANTIATION"),
    ):
        values = config.get(section) if isinstance(config, dict) else None
        if isinstance(values, dict) and name in values:
            settings[key] = str(values[name])
    return settings


def _torchvision(name: str) -> Weights:
    """The weights that torchvision has under the name of a network, or of one of its weights enums."""
    from torchvision import models

    try:
        weights = models.get_weight(name) if "." in name else models.get_model_weights(name).DEFAULT
    except (ValueError, AttributeError, KeyError):
        raise CheckpointError(
            "not a network of torchvision",
            code="unknown_model",
            remedy="write it as torchvision:resnet50 or torchvision:ResNet50_Weights.IMAGENET1K_V2",
        ) from None
    copy = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
    try:
        with redirect_stdout(sys.stderr):  # torchvision prints a line about the download
            tensors = weights.get_state_dict(
                progress=False, check_hash=True, map_location="cpu", weights_only=True
            )
    except Exception as error:  # torch raises many kinds for a damaged file
        if copy.exists():
            raise CheckpointError(
                f"{copy} is damaged", code="damaged", remedy="remove it to download it again"
            ) from None
        reason = str(getattr(error, "reason", error)).partition("\n")[0]
        raise CheckpointError(
            f"{weights.url} cannot be downloaded ({reason})",
            code="not_downloaded",
            remedy="download it elsewhere and give the file",
        ) from None
    return Weights(tensors, TORCHVISION, {}, (f"trained with {_normalisation(weights)}",))


def _normalisation(weights: Any) -> str:
    """How torchvision normalises images for these weights, as overrides."""
    preset = weights.transforms()
    mean, std = preset.mean, preset.std
    if type(weights).__name__ in {"GoogLeNet_Weights", "Inception_V3_Weights"}:
        mean = std = (0.5, 0.5, 0.5)  # from TensorFlow; torchvision's networks convert theirs to it
    mean_and_std = (",".join(f"{value:g}" for value in values) for values in (mean, std))
    return "data.mean={} data.std={}".format(*mean_and_std)
