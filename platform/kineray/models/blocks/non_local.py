"""The non-local block."""

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GroupBatchNorm


class NonLocal(nn.Module):
    """x + norm(out(y)), where y at every position is the mean over all positions of (theta . phi) g.

    The dot-product form of Wang et al. (arXiv 1711.07971, equations 1 and 4) with half the channels
    inside and keys and values max-pooled by 2 in space, as SlowFast uses it. The norm starts at zero:
    a new block is the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = GroupBatchNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape. H and W must be at least 2."""
        pooled = F.max_pool3d(features_bcthw, (1, 2, 2))
        theta_bcn = self.theta(features_bcthw).flatten(2)
        phi_bcp = self.phi(pooled).flatten(2)
        g_bcp = self.g(pooled).flatten(2)
        # (theta^T phi) g^T without a softmax is linear, so phi g^T goes first: a [c, c] matrix in place
        # of one of positions x positions.
        context_bcc = (phi_bcp / phi_bcp.shape[2]) @ g_bcp.transpose(1, 2)
        y_bcn = context_bcc.transpose(1, 2) @ theta_bcn
        y_bcthw = y_bcn.unflatten(2, features_bcthw.shape[2:])
        residual: Tensor = self.norm(self.out(y_bcthw))
        return features_bcthw + residual
