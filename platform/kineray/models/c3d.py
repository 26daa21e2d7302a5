"""C3D: Tran, Bourdev, Fergus, Torresani, Paluri, arXiv 1412.0767, Figure 3.

    layer            kernel        channels   output (frames x side)
    conv1a           3x3x3         64         16 x 112
    pool1            max 1x2x2                16 x 56
    conv2a           3x3x3         128        16 x 56
    pool2            max 2x2x2                8 x 28
    conv3a, conv3b   3x3x3         256        8 x 28
    pool3            max 2x2x2                4 x 14
    conv4a, conv4b   3x3x3         512        4 x 14
    pool4            max 2x2x2                2 x 7
    conv5a, conv5b   3x3x3         512        2 x 7
    pool5            max 2x2x2                1 x 4
    fc6, fc7                       4096
    head             linear

Each convolution and fully connected layer has a bias and is followed by a ReLU; there is no batch norm.
fc6 and fc7 are followed by dropout.
"""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.models.c3d import C3DConfig
from kineray.models.blocks import ClipDropout
from kineray.models.heads import FeatureHead
from kineray.models.preset import ModelPreset


class C3D(nn.Module):
    """The whole network. ``heads`` maps the name of each head to its number of classes."""

    def __init__(self, config: C3DConfig, heads: Mapping[str, int], in_channels: int = 3) -> None:
        super().__init__()
        self.config = config
        width, units = config.width, 64 * config.width
        self.features = nn.Sequential(
            OrderedDict(
                **_convolution("1a", in_channels, width),
                pool1=nn.MaxPool3d((1, 2, 2)),
                **_convolution("2a", width, 2 * width),
                pool2=nn.MaxPool3d(2),
                **_convolution("3a", 2 * width, 4 * width),
                **_convolution("3b", 4 * width, 4 * width),
                pool3=nn.MaxPool3d(2),
                **_convolution("4a", 4 * width, 8 * width),
                **_convolution("4b", 8 * width, 8 * width),
                pool4=nn.MaxPool3d(2),
                **_convolution("5a", 8 * width, 8 * width),
                **_convolution("5b", 8 * width, 8 * width),
                # 7 positions become 4, the last window being incomplete, as in the authors' Caffe network.
                pool5=nn.MaxPool3d(2, ceil_mode=True),
            )
        )
        self.fc6 = nn.Linear(8 * width * 4 * 4, units)
        self.dropout = ClipDropout(config.dropout)
        self.fc7 = nn.Linear(units, units)
        self.head = FeatureHead(units, heads, config.dropout)
        _initialise(self)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, 16, 112, 112] -> {head: logits [B, classes]}.

        Raises ConfigError for clips of another size.
        """
        self.config.check_clip(*clips_bcthw.shape[2:])
        features_bc = self.features(clips_bcthw).flatten(1)
        features_bc = self.dropout(F.relu(self.fc6(features_bc)))
        logits: dict[str, Tensor] = self.head(F.relu(self.fc7(features_bc)))
        return logits


def _convolution(name: str, in_channels: int, out_channels: int) -> dict[str, nn.Module]:
    return {
        f"conv{name}": nn.Conv3d(in_channels, out_channels, 3, padding=1),
        f"relu{name}": nn.ReLU(inplace=True),
    }


def _initialise(model: C3D) -> None:
    """He et al. (arXiv 1502.01852) for all layers before a ReLU, normal(0, 0.01) for the classifiers.

    The authors' normal(0, 0.01) is for images with values from 0 to 255. There is no batch norm, so
    normalised images would shrink at every layer until nothing is left.
    """
    classifiers = set(model.head.modules())
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            if module in classifiers:
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)


PRESETS = {
    "c3d": ModelPreset(
        C3DConfig(),
        frames=16,
        stride=1,
        side=112,
        source="arXiv 1412.0767",
        study="convnets",
    )
}
