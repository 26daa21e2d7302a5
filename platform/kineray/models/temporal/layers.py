"""A list of temporal layers, which a search over architectures changes layer by layer."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config.temporal.layers import LayersConfig
from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, kaiming_init_, pool_space

_HEADS = 4


class Layers(Temporal):
    """The layers of a ``LayersConfig`` on the frames' features, averaged over time."""

    def __init__(self, channels: int, width: int, **fields: Any) -> None:
        super().__init__(width)
        config = LayersConfig(width=width, **fields)
        self.project = nn.Conv1d(channels, width, 1)
        self.layers = nn.ModuleList(_layer(kind, width, kernel) for kind, kernel in config.layers)
        kaiming_init_(self)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, width]."""
        features_bct: Tensor = self.project(pool_space(maps_btchw).transpose(1, 2))
        for layer in self.layers:
            features_bct = layer(features_bct)
        return features_bct.mean(2)


class Conv(nn.Module):
    """relu(BN(conv(x))), or with ``residual`` relu(x + BN(conv(x))): [B, C, T] -> [B, C, T]."""

    def __init__(self, width: int, kernel: int, *, dilation: int = 1, residual: bool = False) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv1d(width, width, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = GhostBatchNorm(width)
        self.residual = residual

    def forward(self, features_bct: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        convolved = self.norm(self.conv(features_bct))
        return F.relu(features_bct + convolved if self.residual else convolved)


class States(nn.Module):
    """The states of a GRU: [B, C, T] -> [B, C, T]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, features_bct: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        states_btc: Tensor = self.gru(features_bct.transpose(1, 2))[0]
        return states_btc.transpose(1, 2)


class Attention(nn.Module):
    """x + self-attention of layer-normalised x over the frames: [B, C, T] -> [B, C, T]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, features_bct: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        features_btc = features_bct.transpose(1, 2)
        b, t, c = features_btc.shape
        qkv = self.qkv(self.norm(features_btc)).reshape(b, t, 3, _HEADS, c // _HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended_btc = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c)
        joined_btc: Tensor = features_btc + self.out(attended_btc)
        return joined_btc.transpose(1, 2)


class Pool(nn.Module):
    """The maximum of each two frames; the last may be alone."""

    def forward(self, features_bct: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, ceil(T / 2)]."""
        return F.max_pool1d(features_bct, 2, ceil_mode=True)


def _layer(kind: str, width: int, kernel: int) -> nn.Module:
    match kind:
        case "conv":
            return Conv(width, kernel)
        case "dilated_conv":
            return Conv(width, kernel, dilation=2)
        case "residual":
            return Conv(width, kernel, residual=True)
        case "gru":
            return States(width)
        case "attention":
            return Attention(width)
    return Pool()
