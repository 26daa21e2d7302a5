"""Configurations of the architectures, a union tagged by ``type``."""

from kineray.config.models.base import ModelSection
from kineray.config.models.slowfast import SlowFastConfig

ModelConfig = SlowFastConfig

__all__ = ["ModelConfig", "ModelSection", "SlowFastConfig"]
