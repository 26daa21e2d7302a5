"""Image networks applied to every frame, followed by a temporal subsystem."""

from typing import Literal, Self

from pydantic import model_validator

from kineray.config.clip_checks import check_sides
from kineray.config.fields import PositiveInt, Probability
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
    backbone is not trained: neither its weights nor its batch-norm statistics change, and what it computes of
    the clips can be kept (``kineray cache``). ``grid``: the feature map of each frame is averaged to
    ``grid`` x ``grid`` positions; none: it stays as it is. ``feature_dtype``: the precision to which the
    features of a frozen backbone are rounded.
    """

    backbone: Backbone = "resnet50"
    cut: str = ""
    frozen: bool = False
    grid: PositiveInt | None = None
    feature_dtype: Literal["float32", "float16"] = "float32"
    temporal: TemporalSection = AverageConfig()
    dropout: Probability = 0.5

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.feature_dtype != "float32" and not self.frozen:
            raise ValueError(f"feature_dtype={self.feature_dtype} needs frozen=true")
        return self

    @property
    def names_layers(self) -> bool:
        """Whether the backbone is cut at a layer."""
        return bool(self.cut)

    def frozen_at_random(self) -> dict[str, str]:
        """The backbone, if it is frozen and has no weights to start from."""
        return {"backbone": "init"} if self.frozen and not self.init else {}

    def frozen_part(self) -> dict[str, object] | None:
        """The backbone, its cut, and what becomes of its maps before the temporal subsystem."""
        fields = {"backbone", "cut", "grid", "feature_dtype"}
        return {"type": self.type, **self.model_dump(include=fields)} if self.frozen else None

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError for frames that are too small, or of a number that ``temporal`` cannot take."""
        smallest = 75 if self.backbone == "inception_v3" else 32
        check_sides(crop, eval_crop, smallest, f"too small for {self.backbone}")
        self.temporal.check_frames(frames)
