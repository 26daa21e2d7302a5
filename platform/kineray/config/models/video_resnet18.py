"""The 18-layer video ResNets."""

from typing import Literal

from kineray.config.fields import Probability
from kineray.config.models.base import ModelSection


class VideoResNet18Config(
    ModelSection, type="video_resnet18", builds="kineray.models.video_resnet18.VideoResNet18"
):
    """The 18-layer video ResNets of Tran et al. (arXiv 1711.11248), as torchvision has them.

    ``variant``: ``r3d`` has 3x3x3 convolutions everywhere; ``mc3`` has them in the stem and the first
    stage, and 1x3x3 ones after that; ``r2plus1d`` factorises each into 1x3x3 and 3x1x1.
    """

    variant: Literal["r3d", "mc3", "r2plus1d"] = "r2plus1d"
    dropout: Probability = 0.0
