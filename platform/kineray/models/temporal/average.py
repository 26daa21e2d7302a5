"""Subsystems that ignore the order of frames: the average of their features, and the features themselves."""

from torch import Tensor

from kineray.config.fields import ZNorm
from kineray.models.temporal.base import Temporal, pool_space
from kineray.models.temporal.z_norm import build_z_norm


class Average(Temporal):
    """The mean of the frames' features, or of their z-scores."""

    def __init__(self, channels: int, z_norm: ZNorm) -> None:
        super().__init__(channels)
        self.z_norm = build_z_norm(z_norm, channels)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, C]."""
        features_btc: Tensor = self.z_norm(pool_space(maps_btchw))
        return features_btc.mean(1)


class EveryFrame(Temporal):
    """The features of every frame, for a head that classifies frames."""

    keeps_frames = True

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, T, C]."""
        return pool_space(maps_btchw)
