"""Image networks applied to every frame, followed by a temporal subsystem."""

from typing import Literal

from kineray.config.clip_checks import check_sides
from kineray.config.fields import Probability
from kineray.config.models.base import ModelSection
from kineray.config.temporal.average import AverageConfig
from kineray.config.temporal.base import TemporalSection

Backbone = Literal[
    "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
    "googlenet", "inception_v3",
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "densenet121", "densenet161", "densenet169", "densenet201",
    "mobilenet_v2", "highway",
]  # fmt: skip


class FrameConfig(ModelSection, type="frame", builds="kineray.models.frame.FrameNet"):
    """An image network applied to every frame, a temporal subsystem, and a linear classifier per head.

    ``backbone``: torchvision's name of a network, or ``highway``. ``cut``: the name of the layer whose
    output is used ("layer3", "features.13"); empty for the last one before the classifier. A ``frozen``
    backbone is not trained: neither its weights nor its batch-norm statistics change.
    """

    backbone: Backbone = "resnet50"
    cut: str = ""
    frozen: bool = False
    temporal: TemporalSection = AverageConfig()
    dropout: Probability = 0.5

    @property
    def names_layers(self) -> bool:
        """Whether the backbone is cut at a layer."""
        return bool(self.cut)

    def frozen_at_random(self) -> dict[str, str]:
        """The backbone, if it is frozen and has no weights to start from."""
        return {"backbone": "init"} if self.frozen and not self.init else {}

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for frames that are too small, or of a number that ``temporal`` cannot take."""
        smallest = 75 if self.backbone == "inception_v3" else 32
        check_sides(crop, eval_crop, smallest, f"too small for {self.backbone}")
        self.temporal.check_frames(frames)
