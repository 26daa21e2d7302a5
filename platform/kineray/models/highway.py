"""A small convolutional Highway network: Srivastava, Greff, Schmidhuber, arXiv 1505.00387.

A highway layer computes y = T(x) H(x) + (1 - T(x)) x (equation 3): at every position and channel the
transform gate T decides how much of the input x is replaced by H(x). Plain convolutions between the stages
change the number of channels (section 2.1), and there is no batch norm.

    stage    layers                                        stride of the maps
    stem     conv 7x7 64, ReLU, max pool 3x3               4
    stage1   highway 3x3 64, x 3                           4
    stage2   conv 3x3 128, ReLU; highway 3x3 128, x 3      8
    stage3   conv 3x3 256, ReLU; highway 3x3 256, x 3      16
    stage4   conv 3x3 512, ReLU; highway 3x3 512, x 3      32
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = 3  # highway layers in each stage
CARRY_BIAS = -1.0  # the gates start mostly closed, so that a new network passes its input on


class HighwayLayer(nn.Module):
    """T(x) H(x) + (1 - T(x)) x, where H is a 3x3 convolution with a ReLU, and T one with a sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(channels, channels, 3, padding=1)
        self.gate = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, frames_nchw: Tensor) -> Tensor:
        """[N, C, H, W] -> the same shape."""
        gate = torch.sigmoid(self.gate(frames_nchw))
        return torch.lerp(frames_nchw, F.relu(self.transform(frames_nchw)), gate)


def highway() -> nn.Sequential:
    """The whole network without a classifier: [N, 3, H, W] -> [N, 512, H/32, W/32]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = nn.Sequential(
        nn.Conv2d(3, 64, 7, stride=2, padding=3),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    layers["stage1"] = nn.Sequential(*(HighwayLayer(64) for _ in range(LAYERS)))
    for stage, channels in ((2, 128), (3, 256), (4, 512)):
        layers[f"stage{stage}"] = nn.Sequential(
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            *(HighwayLayer(channels) for _ in range(LAYERS)),
        )
    network = nn.Sequential(layers)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.constant_(module.bias, CARRY_BIAS if name.endswith("gate") else 0.0)
    return network
