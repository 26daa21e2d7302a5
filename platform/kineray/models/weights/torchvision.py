"""The weights of torchvision's networks by our names.

    theirs                         ours
    any network                    the same network in ``backbone``, up to the layer where it is cut
    ResNets of images              3D ResNets, and the Slow pathway of SlowFast
    googlenet, inception_v3        S3D and I3D, S3D-v3
    s3d                            S3D

Image networks are inflated when they are loaded (``inflation.py``); their classifiers are left out.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from kineray.models import s3d, s3d_v3
from kineray.models.weights.inflation import mean_over_time
from kineray.models.weights.read import TORCHVISION, Weights
from kineray.models.weights.renames import ANY_HEAD, rename, table

_CLASSIFIER = re.compile(r"(fc|head|head\.1)\.(?=weight$|bias$)")  # of ResNets, Swin and MViT
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

_RESNET = table(
    (r"conv1\.(.*)", r"stem.conv.\1"),
    (r"bn1\.(.*)", r"stem.norm.\1"),
    (r"layer(\d)\.(\d+)\.conv([123])\.(.*)", r"res\1.block\2.conv_\3.\4"),
    (r"layer(\d)\.(\d+)\.bn([123])\.(.*)", r"res\1.block\2.norm_\3.\4"),
    (r"layer(\d)\.(\d+)\.downsample\.(.*)", r"res\1.block\2.shortcut.\3"),
)

# Layers of torchvision's ``s3d`` that are not here are pools.
_S3D_LAYERS = {
    "0": "conv1", "2": "conv2", "3": "conv3",
    "5": "inception3a", "6": "inception3b",
    "8": "inception4a", "9": "inception4b", "10": "inception4c", "11": "inception4d", "12": "inception4e",
    "14": "inception5a", "15": "inception5b",
}  # fmt: skip


def by_our_names(weights: Weights, ours: Mapping[str, Tensor]) -> Weights:
    """``weights`` of a torchvision network by the names of the network whose state is ``ours``.

    Weights of other origins, and of networks that have nothing in common with it, are returned unchanged.
    """
    if weights.origin != TORCHVISION:
        return weights
    theirs = {_without_dot(name): value for name, value in weights.tensors.items()}
    theirs = {name: value for name, value in theirs.items() if not name.startswith(_AUXILIARY)}
    if any(f"backbone.{name}" in ours for name in theirs):
        weights = _same_network(weights, theirs, ours)
    elif "layer1.0.conv1.weight" in theirs:
        weights = _resnet(weights, theirs, ours)
    elif "features.5.branch0.0.weight" in theirs:
        weights = _s3d(weights, theirs)
    elif "inception3a.branch1.conv.weight" in theirs:
        weights = _inception(weights, theirs, ours, s3d.torchvision_name)
    elif "Mixed_5b.branch1x1.conv.weight" in theirs:
        weights = _inception(weights, theirs, ours, s3d_v3.torchvision_name)
    return weights


def _without_dot(name: str) -> str:
    """``denselayer1.norm.1.weight``, as in files of DenseNet, -> ``denselayer1.norm1.weight``."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name)


def _same_network(weights: Weights, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Weights:
    """Up to the last layer that our network has: the classifier, and layers after a cut, are left out.

    The classifier of a video network is kept.
    """
    names = list(theirs)
    end = max(number for number, name in enumerate(names, start=1) if f"backbone.{name}" in ours)
    tensors = {f"backbone.{name}": theirs[name] for name in names[:end]}
    if any(value.ndim == 5 for value in theirs.values()):
        tensors |= {
            _CLASSIFIER.sub(f"head.linear.{ANY_HEAD}.", name): value
            for name, value in theirs.items()
            if _CLASSIFIER.match(name)
        }
    parts = {"everything after the backbone is": r"(?!backbone\.|head\.).*"}
    return replace(weights, tensors=tensors, may_be_new=parts)


def _resnet(weights: Weights, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> Weights:
    """For a 3D ResNet, or for the Slow pathway, which then starts as the image network: see ``_fused``."""
    prefix = "slow." if "slow.stem.conv.weight" in ours else "backbone."
    tensors = {
        prefix + _numbered(rename(name, _RESNET)): value
        for name, value in theirs.items()
        if not name.startswith("fc.")
    }
    if prefix == "slow.":
        tensors = {name: _fused(name, value, ours) for name, value in tensors.items()}
        tensors |= _identities(tensors, ours)
    parts = {"the Fast pathway and the lateral connections are": r"(fast|laterals)\..*"}
    return replace(weights, tensors=tensors, may_be_new=parts)


def _fused(name: str, value: Tensor, ours: Mapping[str, Tensor]) -> Tensor:
    """``value`` with zeros for the channels of the lateral connection, which have no effect at first."""
    if not re.fullmatch(r"slow\.res\d\.block0\.(conv_a|shortcut\.0)\.weight", name) or name not in ours:
        return value
    added = max(ours[name].shape[1] - value.shape[1], 0)
    return torch.cat([value, value.new_zeros(value.shape[0], added, *value.shape[2:])], dim=1)


def _identities(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Identity weights for the shortcut of res2, if it is a convolution only because channels are added."""
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


def _inception(
    weights: Weights,
    theirs: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    name_there: Callable[[str], str | None],
) -> Weights:
    """For an inflated Inception network; its temporal convolutions are initialised as means."""
    there = {name: name_there(name) or "" for name in ours}
    tensors = {name: theirs[there[name]] for name in ours if there[name] in theirs}
    unknown = theirs.keys() - there.values()
    tensors |= {name: theirs[name] for name in theirs if name in unknown and not name.startswith("fc.")}
    for name, value in ours.items():
        if name.endswith(".temporal.conv.weight"):
            tensors[name] = mean_over_time(value.shape[0], value.shape[2])
    parts = {
        "the norms of the temporal convolutions, which start as means, are": r".*\.temporal\.norm\..*",
        "the auxiliary classifier is": r"auxiliary\..*",
    }
    return replace(weights, tensors=tensors, may_be_new=parts)


def _s3d(weights: Weights, theirs: Mapping[str, Tensor]) -> Weights:
    tensors = {_s3d_name(name): value for name, value in theirs.items()}
    classifier = f"head.linear.{ANY_HEAD}.weight"
    if classifier in tensors:
        tensors[classifier] = tensors[classifier].flatten(1)
    return replace(weights, tensors=tensors)


def _s3d_name(name: str) -> str:
    """``features.5.branch1.1.0.1.bias`` -> ``inception3a.branch2.1.spatial.norm.bias``."""
    found = re.fullmatch(r"features\.(\d+)\.(?:branch(\d)\.)?([\d.]*)\.(\w+)", name)
    if not found or found[1] not in _S3D_LAYERS:
        return name.replace("classifier.1.", f"head.linear.{ANY_HEAD}.")
    number, branch, inside, leaf = found.groups()
    *before, last = inside.split(".")
    place = [_S3D_LAYERS[number], f"branch{int(branch) + 1}"] if branch else [_S3D_LAYERS[number]]
    # A convolution is (conv, norm), a separable one is (spatial, temporal), each such a pair. A branch is one
    # convolution, or a sequence whose second element is separable; the last branch starts with a pool.
    if branch and before:
        place.append(before.pop(0))
    place += [("spatial", "temporal")[int(half)] for half in before]
    return ".".join([*place, ("conv", "norm")[int(last)], leaf])


def _numbered(name: str) -> str:
    """``res1.block0.conv_2`` -> ``res2.block0.conv_b``: stages count from 2, convolutions in letters."""
    name = re.sub(r"^res(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    return re.sub(r"(conv|norm)_(\d)", lambda found: f"{found[1]}_{'abc'[int(found[2]) - 1]}", name)
