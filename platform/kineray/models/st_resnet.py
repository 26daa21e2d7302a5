"""Spatio-temporal residual networks: Iqbal, Richard, Kuehne, Gall, arXiv 1706.08807.

ResNet-50 reads the frames of a sequence one after the other. A temporal skip connection adds the output of
a layer at frame t - 1 to the output of a later layer at frame t, so what lies between them learns the
residual with respect to the previous frame. The output at the last frame is that of the sequence. (A figure
caption of the source adds the *input* of the block; its layer numbers, which are followed here, add the
output of a layer.)

The source numbers the layers of ResNet-50. Convolutions and batch norms count, from 0, in the order in
which they run, the projection of a shortcut before the branch. That makes 106 layers, and every studied
connection joins maps of equal shape, as an identity has to. In torchvision's names:

    0, 1      conv1, bn1
    2 - 21    layer1 (the source's block 1)     a stage's first block:  downsample.0, downsample.1, and
    22 - 47   layer2 (block 2)                                          those of the others
    48 - 85   layer3 (block 3)                  every other block:      conv1, bn1, conv2, bn2, conv3, bn3
    86 - 105  layer4 (block 4)

    connection   from                    to               channels    map of a 224 x 224 frame
    5 -> 11      layer1.0.bn1            layer1.1.bn1     64          56 x 56
    49 -> 55     layer3.0.downsample.1   layer3.0.bn3     1024        14 x 14
    86 -> 92     layer4.0.downsample.0   layer4.0.conv3   2048        7 x 7
    98 -> 104    layer4.1.conv3          layer4.2.conv3   2048        7 x 7

The source's features "after layer 85" and "after layer 105" are the outputs of layer3 and layer4. Those
"after layer 48" are the output of layer2, whose last layer is 47 here: no uniform count fits all three.

Each connection reaches one frame further back, since its source depends on earlier targets: one, two and
four connections have a context of two, three and five frames. In the source's "special 3" layer 98 is
connected to layer 104 by an identity layer, "which skips the frame at t - 1", and it "captures temporal
dependencies of three frames". This can be read in two ways: the connection from t - 2 replaces the one from
t - 1 (``delays`` 2), or is added to it (``delays`` 1,2).

A video is classified by the mean of the probabilities of its sequences, which are its views in evaluation:
``data.sampling=sequences`` with ``data.frames`` equal to the context.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet, resnet50

from kineray.config.models.st_resnet import STResNetConfig
from kineray.models.blocks import GhostBatchNorm, adopt, replace_input_conv
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset

CHANNELS = 2048  # of a frame's features
STAGES = {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}  # number of blocks


def _number_layers() -> Iterator[str]:
    """Names of the convolutions and batch norms, in the source's order."""
    yield from ("conv1", "bn1")
    for stage, blocks in STAGES.items():
        yield from (f"{stage}.0.downsample.0", f"{stage}.0.downsample.1")
        for block in range(blocks):
            for layer in ("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"):
                yield f"{stage}.{block}.{layer}"


LAYERS = tuple(_number_layers())


class STResNet(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: STResNetConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        self.backbone = _backbone(in_channels)
        self.source_of: dict[str, str] = {}  # name of a target layer -> name of its source layer
        self.connections = nn.ModuleDict()
        for position in config.positions:
            source, target = (LAYERS[int(number)] for number in position.split("_"))
            self.source_of[target] = source
            self.connections[position] = _connection(config.connection, self._channels(source))
        self.connection_to = dict(zip(self.source_of, self.connections, strict=True))
        self.head = FeatureHead(CHANNELS, heads, dropout=0.0)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}.

        If a clip is longer than the context, only its last frames are used. Raises ConfigError if it is
        shorter.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        sources: dict[str, Tensor] = {}
        features_btchw = clips_bcthw[:, :, -self.config.context :].transpose(1, 2)
        features_btchw = F.relu(self._layer("bn1", self._layer("conv1", features_btchw, sources), sources))
        features_btchw = _each_frame(self.backbone.maxpool, features_btchw)
        for stage, blocks in STAGES.items():
            for block in range(blocks):
                features_btchw = self._block(f"{stage}.{block}", features_btchw, sources)
        # Every connection has used up its part of the context: one frame is left.
        features_bc = self.backbone.avgpool(features_btchw.squeeze(1)).flatten(1)
        logits: dict[str, Tensor] = self.head(features_bc)
        return logits

    def _block(self, name: str, features_btchw: Tensor, sources: dict[str, Tensor]) -> Tensor:
        """A bottleneck block of torchvision, layer by layer."""
        shortcut_btchw = features_btchw
        if name.endswith(".0"):
            for layer in ("downsample.0", "downsample.1"):
                shortcut_btchw = self._layer(f"{name}.{layer}", shortcut_btchw, sources)
        for number in (1, 2, 3):
            features_btchw = self._layer(f"{name}.conv{number}", features_btchw, sources)
            features_btchw = self._layer(f"{name}.bn{number}", features_btchw, sources)
            if number < 3:
                features_btchw = F.relu(features_btchw)  # not in place: a source may be kept
        features_btchw = self.backbone.get_submodule(f"{name}.drop")(features_btchw)
        return F.relu(features_btchw + shortcut_btchw[:, -features_btchw.shape[1] :])

    def _layer(self, name: str, features_btchw: Tensor, sources: dict[str, Tensor]) -> Tensor:
        """Apply a layer to every frame, keep its output if it is a source, and connect it if it is a target.

        [B, T, C, H, W] -> [B, T', C', H', W']. T' = T, but after a target it is smaller by the largest of
        ``delays``: the first frames have no earlier ones to be connected to, and no later layer needs them.
        """
        output_btchw = _each_frame(self.backbone.get_submodule(name), features_btchw)
        if name in self.source_of.values():
            sources[name] = output_btchw
        if name not in self.source_of:
            return output_btchw
        source_btchw, longest = sources[self.source_of[name]], max(self.config.delays)
        connection = self.connections[self.connection_to[name]]
        connected_btchw = output_btchw[:, longest:]
        for delay in self.config.delays:
            earlier_btchw = source_btchw[:, longest - delay : -delay]
            connected_btchw = connected_btchw + _each_frame(connection, earlier_btchw)
        return connected_btchw

    def _channels(self, name: str) -> int:
        layer = self.backbone.get_submodule(name)
        return layer.num_features if isinstance(layer, GhostBatchNorm) else int(layer.out_channels)


def _each_frame(layer: nn.Module, features_btchw: Tensor) -> Tensor:
    """Apply a layer for images to all frames at once."""
    frames = features_btchw.shape[1]
    output: Tensor = layer(features_btchw.flatten(0, 1))
    return torch.unflatten(output, 0, (-1, frames))


def _backbone(in_channels: int) -> ResNet:
    backbone = adopt(replace_input_conv(resnet50(weights=None), in_channels))
    backbone.fc = nn.Identity()
    return backbone


def _connection(kind: str, channels: int) -> nn.Module:
    if kind == "identity":
        return nn.Identity()
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv if kind == "conv" else nn.Sequential(conv, nn.ReLU(inplace=True))


def _preset(config: STResNetConfig) -> ModelPreset:
    # Every tenth frame of UCF-101, which has 25 frames a second.
    return ModelPreset(
        config,
        frames=config.context,
        sampling="sequences",
        stride=12,
        side=224,
        source="arXiv 1706.08807",
        study="st_resnet",
    )


PRESETS = {
    "st_resnet50": _preset(STResNetConfig()),
    "st_resnet50_5_11": _preset(STResNetConfig(position="5_11")),
    "st_resnet50_49_55": _preset(STResNetConfig(position="49_55")),
    "st_resnet50_86_92": _preset(STResNetConfig(position="86_92")),
    "st_resnet50_conv": _preset(STResNetConfig(connection="conv")),
    "st_resnet50_conv_relu": _preset(STResNetConfig(connection="conv_relu")),
    "st_resnet50_context3": _preset(STResNetConfig(connections=2)),
    "st_resnet50_context5": _preset(STResNetConfig(connections=4)),
    "st_resnet50_special3": _preset(STResNetConfig(delays=(2,))),
    "st_resnet50_special3_both": _preset(STResNetConfig(delays=(1, 2))),
}
