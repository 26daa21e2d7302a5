"""torchvision's networks: their weights by our names.

    theirs                         ours
    any network                    the same network in ``backbone`` (up to where it is cut)
    ResNets of images              3D ResNets, and the Slow pathway of SlowFast

Image networks are inflated when they are loaded (``inflation.py``); their classifiers are left out.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from kineray.models.weights.read import TORCHVISION, Weights
from kineray.models.weights.renames import ANY_HEAD, rename, table

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_RESNET = table(
    (r"conv1\.(.*)", r"stem.conv.\1"),
    (r"bn1\.(.*)", r"stem.norm.\1"),
    (r"layer(\d)\.(\d+)\.conv(\d)\.(.*)", r"res\1.block\2.conv_\3.\4"),
    (r"layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"res\1.block\2.norm_\3.\4"),
    (r"layer(\d)\.(\d+)\.downsample\.(.*)", r"res\1.block\2.shortcut.\3"),
)


def by_our_names(weights: Weights, ours: Mapping[str, Tensor]) -> Weights:
    """``weights`` of a torchvision network by the names of the network whose state is ``ours``.

    Others, and those of networks that have nothing in common with it, stay as they are.
    """
    if weights.origin != TORCHVISION:
        return weights
    theirs = {_without_dot(name): value for name, value in weights.tensors.items()}
    theirs = {name: value for name, value in theirs.items() if not name.startswith(_AUXILIARY)}
    if any(f"backbone.{name}" in ours for name in theirs):
        return _same_network(weights, theirs, ours)
    if "layer1.0.conv1.weight" in theirs:
        return _resnet(weights, theirs, ours)
    return weights


def _without_dot(name: str) -> str:
    """Files of DenseNet have ``denselayer1.norm.1.weight`` for ``denselayer1.norm1.weight``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)


def _same_network(weights: Weights, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Weights:
    """Up to the last layer that we have: the classifier is left out, and what is behind a cut.

    The classifier of a video network is kept.
    """
    names = list(theirs)
    end = max(number for number, name in enumerate(names, start=1) if f"backbone.{name}" in ours)
    tensors = {f"backbone.{name}": theirs[name] for name in names[:end]}
    if any(value.ndim == 5 for value in theirs.values()):
        tensors |= {f"head.linear.{ANY_HEAD}.{leaf}": theirs[f"fc.{leaf}"] for leaf in ("weight", "bias")}
    parts = {"what is behind the backbone is": r"(?!backbone\.|head\.).*"}
    return replace(weights, tensors=tensors, may_be_new=parts)


def _resnet(weights: Weights, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Weights:
    """For a 3D ResNet, or for the Slow pathway, which begins as the image network: see ``_fused``."""
    prefix = "slow." if "slow.stem.conv.weight" in ours else "backbone."
    tensors = {
        prefix + _numbered(rename(name, _RESNET)): value
        for name, value in theirs.items()
        if not name.startswith("fc.")
    }
    if prefix == "slow.":
        tensors = {name: _fused(value, ours.get(name, value)) for name, value in tensors.items()}
        tensors |= _identities(tensors, ours)
    parts = {"the Fast pathway and the lateral connections are": r"(fast|laterals)\..*"}
    return replace(weights, tensors=tensors, may_be_new=parts)


def _fused(value: Tensor, wanted: Tensor) -> Tensor:
    """With zeros for the channels that a lateral connection adds, whatever the Fast pathway says."""
    if value.ndim != 4 or value.shape[1] >= wanted.shape[1]:
        return value
    added = value.new_zeros(value.shape[0], wanted.shape[1] - value.shape[1], *value.shape[2:])
    return torch.cat([value, added], dim=1)


def _identities(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A shortcut of res2 that is a convolution only since channels are added: the identity of the others."""
    conv, norm = (f"slow.res2.block0.shortcut.{index}." for index in (0, 1))
    if f"{conv}weight" in theirs or f"{conv}weight" not in ours:
        return {}
    out_channels, in_channels = ours[f"{conv}weight"].shape[:2]
    zeros, ones = torch.zeros(out_channels), torch.ones(out_channels)
    return {
        f"{conv}weight": torch.eye(out_channels, in_channels)[:, :, None, None],
        f"{norm}weight": ones,
        f"{norm}bias": zeros,
        f"{norm}running_mean": zeros,
        f"{norm}running_var": ones,
    }


def _numbered(name: str) -> str:
    """``res1.block0.conv_2`` -> ``res2.block0.conv_b``: stages count from 2, convolutions in letters."""
    name = re.sub(r"^res(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    return re.sub(r"(conv|norm)_(\d)", lambda found: f"{found[1]}_{'abc'[int(found[2]) - 1]}", name)
