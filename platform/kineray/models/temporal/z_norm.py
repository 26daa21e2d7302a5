"""Z-scores of the frames' features, which have mean 0 and variance 1: [B, T, C] -> the same shape."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.fields import ZNorm
from kineray.models.blocks import GhostBatchNorm


class PerDimension(nn.Module):
    """Normalises every dimension over the training set, as is usual for features before a linear classifier.

    It is a batch norm without scale and shift: training uses the statistics of the batch-norm group,
    evaluation the running statistics of the training set.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GhostBatchNorm(channels, affine=False)

    def forward(self, features_btc: Tensor) -> Tensor:
        """[B, T, C] -> the same shape."""
        scores_bct: Tensor = self.norm(features_btc.transpose(1, 2))
        return scores_bct.transpose(1, 2)


class PerFrame(nn.Module):
    """Normalises the features of each frame over their dimensions, without statistics of other frames."""

    def forward(self, features_btc: Tensor) -> Tensor:
        """[B, T, C] -> the same shape."""
        return F.layer_norm(features_btc, features_btc.shape[-1:])


def build_z_norm(kind: ZNorm, channels: int) -> nn.Module:
    """The normalisation of ``channels`` dimensions that a configuration names."""
    if kind == "per_dimension":
        return PerDimension(channels)
    return PerFrame() if kind == "per_frame" else nn.Identity()
