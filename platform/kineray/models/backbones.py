"""Image networks without their classifiers.

Whatever torchvision's class is, all have the same form: a sequence of named layers, [N, C, H, W] -> feature
maps [N, F, H', W'], in which every layer and weight has the name that it has in torchvision.

    family            layers                             left out
    vgg, mobilenet    features                           pooling, classifier
    densenet          features, and the ReLU that        classifier
                      ``forward`` applies to them
    resnet, resnext   conv1, bn1, relu, maxpool,         avgpool, fc
                      layer1 .. layer4
    googlenet         conv1 .. inception5b               avgpool, dropout, fc
    inception_v3      Conv2d_1a_3x3 .. Mixed_7c          avgpool, dropout, fc
    highway           stem, stage1 .. stage4             (kineray.models.highway)
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from kineray.errors import ConfigError
from kineray.models.blocks import replace_input_conv
from kineray.models.highway import highway

_CLASSIFIER = ("avgpool", "classifier")  # the layers of the backbone end before the first of these
_NO_AUXILIARY = {"aux_logits": False, "transform_input": False, "init_weights": True}
_OPTIONS: dict[str, dict[str, Any]] = {"googlenet": _NO_AUXILIARY, "inception_v3": _NO_AUXILIARY}


def build_backbone(name: str, cut: str = "", in_channels: int = 3) -> nn.Sequential:
    """A new, randomly initialised backbone: frames [N, in_channels, H, W] -> feature maps [N, F, H', W'].

    ``name`` and ``cut``: ``backbone`` and ``cut`` of ``FrameConfig``. If ``in_channels`` is not 3, the first
    convolution is replaced. Raises ConfigError if the network has no layer ``cut``.
    """
    backbone = highway() if name == "highway" else _torchvision(name)
    if cut:
        backbone = _up_to(backbone, cut, name)
    return replace_input_conv(backbone, in_channels)


def backbone_channels(name: str, cut: str = "") -> int:
    """Channels of the feature maps, from a forward pass on the meta device."""
    with torch.device("meta"):
        backbone = build_backbone(name, cut).eval()
        maps_nchw = backbone(torch.empty(1, 3, 96, 96))
    return int(maps_nchw.shape[1])


def _torchvision(name: str) -> nn.Sequential:
    from torchvision.models import get_model

    network = get_model(name, weights=None, **_OPTIONS.get(name, {}))
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for layer, module in network.named_children():
        if layer in _CLASSIFIER:
            break
        layers[layer] = module
    if name.startswith("densenet"):
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _up_to(layers: nn.Sequential, cut: str, path: str) -> nn.Sequential:
    """The layers up to ``cut``, which may lie inside a layer: "features.13". ``path``: used in errors."""
    first, dot, inside = cut.partition(".")
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.named_children():
        kept[name] = layer
        if name == first and not dot:
            return nn.Sequential(kept)
        if name == first and isinstance(layer, nn.Sequential):
            kept[name] = _up_to(layer, inside, f"{path}.{name}")
            return nn.Sequential(kept)
        if name == first:
            whole = f"{path}.{first}".partition(".")[2]
            raise ConfigError(
                f"{path}.{first} cannot be cut at '{inside}'",
                code="unknown_value",
                key="model.cut",
                remedy=f"set model.cut={whole}",
            )
    raise ConfigError(
        f"{path} has no layer '{first}'",
        code="unknown_value",
        key="model.cut",
        remedy=f"choose from {', '.join(kept)}",
    )
