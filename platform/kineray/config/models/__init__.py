"""Configurations of the architectures, a union tagged by ``type``."""

from typing import Annotated

from pydantic import Field

from kineray.config.models.base import ModelSection
from kineray.config.models.c3d import C3DConfig
from kineray.config.models.frame import FrameConfig
from kineray.config.models.p3d import P3DConfig
from kineray.config.models.r2plus1d import R2Plus1DConfig
from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.config.models.s3d import S3DConfig
from kineray.config.models.s3d_v3 import S3DV3Config
from kineray.config.models.slowfast import SlowFastConfig
from kineray.config.models.st_resnet import STResNetConfig
from kineray.config.models.stream import AnyStream, StreamConfig
from kineray.config.models.temporal import (
    AttentionConfig,
    AverageConfig,
    ConsensusConfig,
    Conv1dConfig,
    ConvLstmConfig,
    GruConfig,
    LstmConfig,
    ResidualConfig,
    TemporalConfig,
    TimeceptionConfig,
)
from kineray.config.models.two_stream import TwoStreamConfig
from kineray.config.models.video_resnet18 import VideoResNet18Config

# A new architecture goes into ``AnyStream``.
ModelConfig = Annotated[AnyStream | TwoStreamConfig, Field(discriminator="type")]

__all__ = [
    "AttentionConfig",
    "AverageConfig",
    "C3DConfig",
    "ConsensusConfig",
    "Conv1dConfig",
    "ConvLstmConfig",
    "FrameConfig",
    "GruConfig",
    "LstmConfig",
    "ModelConfig",
    "ModelSection",
    "P3DConfig",
    "R2Plus1DConfig",
    "ResNet3dConfig",
    "ResidualConfig",
    "S3DConfig",
    "S3DV3Config",
    "STResNetConfig",
    "SlowFastConfig",
    "StreamConfig",
    "TemporalConfig",
    "TimeceptionConfig",
    "TwoStreamConfig",
    "VideoResNet18Config",
]
