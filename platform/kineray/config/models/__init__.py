"""Configurations of the architectures, a union tagged by ``type``."""

from typing import Annotated

from pydantic import Field

from kineray.config.models.base import ModelSection
from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.config.models.slowfast import SlowFastConfig

ModelConfig = Annotated[
    SlowFastConfig | ResNet3dConfig,
    Field(discriminator="type"),
]

__all__ = ["ModelConfig", "ModelSection", "ResNet3dConfig", "SlowFastConfig"]
