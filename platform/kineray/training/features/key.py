"""What cached features depend on, as a value with a hash."""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from kineray.config import Experiment, plugins_of
from kineray.data import Manifest, Preprocessing
from kineray.data.clips.draws import ClipDraws

TRAIN, VAL = "train", "val"


def features_of(
    experiment: Experiment,
    weights: str,
    preprocessing: Preprocessing,
    clips: Manifest,
    draws: ClipDraws | None,
) -> dict[str, Any]:
    """All that the features of a set of clips depend on, in plain JSON values.

    ``weights``: ``weights_hash`` of the backbone. ``draws``: of training clips; None for those of
    validation. The seed counts only where clips are random, and augmentations only in training.
    """
    about: dict[str, Any] = {
        "clips": VAL if draws is None else TRAIN,
        "weights": weights,
        "network": experiment.model.frozen_part(),
        "preprocessing": preprocessing.model_dump(mode="json", exclude={"labels"}),
        "precision": experiment.train.precision,
        "data": clips.name,
        "manifest": clips.content_hash,
        "samples": len(clips),
        "views": 1 if draws is None else draws.views,
    }
    plugins = {plugin.name: plugin.sha256 for plugin in plugins_of(experiment.model)}
    if draws is not None and draws.is_random:
        about |= {"seed": draws.seed, "clips_per_sample": draws.clips_per_sample}
        about["augment"] = {name: one.model_dump(mode="json") for name, one in preprocessing.augment.items()}
        for piece in preprocessing.augment.values():
            plugins |= {plugin.name: plugin.sha256 for plugin in plugins_of(piece)}
    return about | ({"plugins": plugins} if plugins else {})


def key_of(about: dict[str, Any]) -> str:
    """16 hex digits that differ between features that differ; the name of the data set does not count."""
    counted = {name: value for name, value in about.items() if name != "data"}
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


def weights_hash(network: nn.Module) -> str:
    """sha256 (hex) of the names, types, shapes and values of all tensors of a network."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
