"""Z-scores of the frames' features: mean 0 and variance 1, [B, T, C] -> the same shape."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.fields import ZNorm
from kineray.models.blocks import GhostBatchNorm


class PerDimension(nn.Module):
    """Every dimension over the training set, as is usual for features in front of a linear classifier.

    A batch norm without scale and shift: evaluation uses the running statistics of the training set, training
    those of the batch-norm group.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GhostBatchNorm(channels, affine=False)

    def forward(self, features_btc: Tensor) -> Tensor:
        """[B, T, C] -> the same shape."""
        scores_bct: Tensor = self.norm(features_btc.transpose(1, 2))
        return scores_bct.transpose(1, 2)


class PerFrame(nn.Module):
    """The features of a frame over its dimensions; it needs no statistics of other frames."""

    def forward(self, features_btc: Tensor) -> Tensor:
        """[B, T, C] -> the same shape."""
        return F.layer_norm(features_btc, features_btc.shape[-1:])


def build_z_norm(kind: ZNorm, channels: int) -> nn.Module:
    """The normalisation of ``channels`` dimensions that a configuration names."""
    if kind == "per_dimension":
        return PerDimension(channels)
    return PerFrame() if kind == "per_frame" else nn.Identity()
