"""Frames without an order: the average of their features, and the frames' features themselves."""

from torch import Tensor
from torch.nn import functional as F

from kineray.models.temporal.base import Temporal, pool_space


class Average(Temporal):
    """The mean of the frames' features, with ``z_norm`` of their z-scores: [B, C]."""

    def __init__(self, channels: int, z_norm: bool) -> None:
        super().__init__(channels)
        self.z_norm = z_norm

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, C]."""
        features_btc = pool_space(maps_btchw)
        if self.z_norm:
            features_btc = z_normalise(features_btc)
        return features_btc.mean(1)


class EveryFrame(Temporal):
    """The features of every frame, for a head that classifies frames."""

    keeps_frames = True

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, T, C]."""
        return pool_space(maps_btchw)


def z_normalise(features_btc: Tensor) -> Tensor:
    """Each frame's features minus their mean, divided by their standard deviation, over its channels."""
    return F.layer_norm(features_btc, features_btc.shape[-1:])
