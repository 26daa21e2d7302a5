"""The architectures that can be one stream of a two-stream network: all the others."""

from typing import Annotated

from pydantic import Field

from kineray.config.models.c3d import C3DConfig
from kineray.config.models.frame import FrameConfig
from kineray.config.models.p3d import P3DConfig
from kineray.config.models.r2plus1d import R2Plus1DConfig
from kineray.config.models.resnet3d import ResNet3dConfig
from kineray.config.models.s3d import S3DConfig
from kineray.config.models.s3d_v3 import S3DV3Config
from kineray.config.models.slowfast import SlowFastConfig
from kineray.config.models.st_resnet import STResNetConfig
from kineray.config.models.video_resnet18 import VideoResNet18Config

AnyStream = (
    SlowFastConfig
    | S3DConfig
    | S3DV3Config
    | C3DConfig
    | P3DConfig
    | R2Plus1DConfig
    | VideoResNet18Config
    | ResNet3dConfig
    | FrameConfig
    | STResNetConfig
)
StreamConfig = Annotated[AnyStream, Field(discriminator="type")]
