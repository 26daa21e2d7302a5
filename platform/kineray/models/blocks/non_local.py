"""The non-local block."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GhostBatchNorm

Form = Literal["dot_product", "softmax"]


class NonLocal(nn.Module):
    """x + norm(out(y)), where y at every position is a weighted mean of g over all positions.

    Wang et al., arXiv 1711.07971, equation 1, with half the channels inside, and keys and values
    max-pooled by 2 in space. The weights are theta . phi / positions (``dot_product``, equation 4, as in
    SlowFast) or softmax(theta . phi / sqrt(channels inside)) (``softmax``, equation 3, scaled as in
    PySlowFast). The norm's weight is initialised to zero, so a new block is the identity.
    """

    def __init__(self, channels: int, form: Form = "dot_product") -> None:
        super().__init__()
        inner = channels // 2
        self.form = form
        self.theta = nn.Conv3d(channels, inner, 1)
        self.phi = nn.Conv3d(channels, inner, 1)
        self.g = nn.Conv3d(channels, inner, 1)
        self.out = nn.Conv3d(inner, channels, 1)
        self.norm = GhostBatchNorm(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape. H and W must be at least 2."""
        pooled = F.max_pool3d(features_bcthw, (1, 2, 2))
        theta_bcthw = self.theta(features_bcthw)
        phi_bcp = self.phi(pooled).flatten(2)
        g_bcp = self.g(pooled).flatten(2)
        mean = _softmax_mean if self.form == "softmax" else _dot_product_mean
        y_bcthw = mean(theta_bcthw.flatten(2), phi_bcp, g_bcp).reshape_as(theta_bcthw)
        residual: Tensor = self.norm(self.out(y_bcthw))
        return features_bcthw + residual


def _dot_product_mean(theta_bcn: Tensor, phi_bcp: Tensor, g_bcp: Tensor) -> Tensor:
    """(theta^T phi) g^T is linear without a softmax, so phi g^T goes first: [c, c] instead of [n, p]."""
    context_bcc = (phi_bcp / phi_bcp.shape[2]) @ g_bcp.transpose(1, 2)
    return context_bcc.transpose(1, 2) @ theta_bcn


def _softmax_mean(theta_bcn: Tensor, phi_bcp: Tensor, g_bcp: Tensor) -> Tensor:
    scale: float = theta_bcn.shape[1] ** -0.5
    weights_bnp = ((theta_bcn * scale).transpose(1, 2) @ phi_bcp).softmax(dim=2)
    return g_bcp @ weights_bnp.transpose(1, 2)
