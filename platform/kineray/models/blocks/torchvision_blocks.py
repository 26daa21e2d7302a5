"""The residual blocks of torchvision, whose branches stochastic depth can drop; names and weights stay."""

from typing import Any

from torch import Tensor, nn
from torchvision.models import mobilenetv2, resnet
from torchvision.models.video import resnet as video_resnet

from kineray.models.blocks.stochastic_depth import DroppableBlock


class AdoptedBasicBlock(DroppableBlock, resnet.BasicBlock):  # type: ignore[misc]
    """The block of ResNet-18 and 34."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[N, C, H, W] -> relu(shortcut + branch)."""
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return _joined(self, x, branch)


class AdoptedBottleneck(DroppableBlock, resnet.Bottleneck):  # type: ignore[misc]
    """The block of deeper ResNets and of ResNeXts."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[N, C, H, W] -> relu(shortcut + branch)."""
        branch = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return _joined(self, x, self.bn3(self.conv3(branch)))


class AdoptedVideoBasicBlock(DroppableBlock, video_resnet.BasicBlock):  # type: ignore[misc]
    """The block of the 18-layer video ResNets."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[B, C, T, H, W] -> relu(shortcut + branch)."""
        return _joined(self, x, self.conv2(self.conv1(x)))


class AdoptedInvertedResidual(DroppableBlock, mobilenetv2.InvertedResidual):  # type: ignore[misc]
    """A block of MobileNetV2 that has a shortcut."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """[N, C, H, W] -> shortcut + branch."""
        features: Tensor = x + self.drop(self.conv(x))
        return features


_ADOPTED: dict[type[nn.Module], type[DroppableBlock]] = {
    resnet.BasicBlock: AdoptedBasicBlock,
    resnet.Bottleneck: AdoptedBottleneck,
    video_resnet.BasicBlock: AdoptedVideoBasicBlock,
    mobilenetv2.InvertedResidual: AdoptedInvertedResidual,
}


def adopt_block(layer: nn.Module) -> None:
    """Make ``layer`` a ``DroppableBlock`` if it is a residual block of torchvision that has a shortcut."""
    if type(layer) in _ADOPTED and getattr(layer, "use_res_connect", True):
        layer.__class__ = _ADOPTED[type(layer)]
        layer.drop = nn.Identity()


def _joined(block: Any, features: Tensor, branch: Tensor) -> Tensor:
    shortcut = features if block.downsample is None else block.downsample(features)
    joined: Tensor = block.relu(block.drop(branch).add_(shortcut))
    return joined
