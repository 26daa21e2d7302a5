"""The attentive probe of V-JEPA: Bardes et al., arXiv 2404.08471, the evaluation of frozen features.

    tokens x    linear(norm(features)) + positions       one for every position of every frame
    queries q   learned
                q + attention(q, norm(x))                multi-head cross-attention
                q + MLP(norm(q))                         two layers, 4 width channels between them, GELU
    features    norm(q)                                  all queries, concatenated

Norms are layer norms. The features of V-JEPA's encoder are the tokens themselves; those of other backbones
have any scale and number of channels, and no positions, so they are normalised and projected to ``width``
channels, and V-JEPA's code of the position is added: sines and cosines of the frame in half of the channels,
of the row in a quarter and of the column in the last quarter. It needs no fixed number of frames.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kineray.models.temporal.base import Temporal

_SLOWEST = 10_000  # wavelength / 2 pi of the slowest sine, in frames or positions (arXiv 1706.03762)


class AttentiveProbe(Temporal):
    """The subsystem. ``tokens``: ``positions`` of the frames' maps, or whole ``frames``."""

    def __init__(
        self,
        channels: int,
        tokens: Literal["positions", "frames"],
        width: int,
        attention_heads: int,
        queries: int,
    ) -> None:
        super().__init__(queries * width)
        self.tokens, self.attention_heads = tokens, attention_heads
        self.embed = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, width))
        self.queries = nn.Parameter(torch.empty(queries, width))
        self.norm_tokens = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width)
        self._initialise(channels)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, queries x width]."""
        if self.tokens == "frames":
            maps_btchw = maps_btchw.mean((3, 4), keepdim=True)
        tokens_bthwc: Tensor = self.embed(maps_btchw.permute(0, 1, 3, 4, 2))
        tokens_bthwc = tokens_bthwc + position_code(tokens_bthwc)
        tokens_bnc = self.norm_tokens(tokens_bthwc.flatten(1, 3))
        queries_bqc = self.queries + self._attend(tokens_bnc)
        queries_bqc = queries_bqc + self.mlp(queries_bqc)
        features: Tensor = self.norm(queries_bqc)
        return features.flatten(1)

    def _attend(self, tokens_bnc: Tensor) -> Tensor:
        """What every query gets from the tokens: [B, N, width] -> [B, queries, width]."""
        # Written out, because the backward pass of torch's fused attention is not deterministic on GPUs.
        query_hqd = self._by_head(self.query(self.queries))
        key_bhnd, value_bhnd = (self._by_head(part) for part in self.key_value(tokens_bnc).chunk(2, dim=-1))
        scores_bhqn = query_hqd @ key_bhnd.transpose(-1, -2) / math.sqrt(query_hqd.shape[-1])
        attended_bhqd = scores_bhqn.softmax(dim=-1) @ value_bhnd
        projected: Tensor = self.project(attended_bhqd.transpose(1, 2).flatten(2))
        return projected

    def _by_head(self, features: Tensor) -> Tensor:
        """[..., N, width] -> [..., attention heads, N, width / attention heads]."""
        return torch.unflatten(features, -1, (self.attention_heads, -1)).transpose(-2, -3)

    def _initialise(self, channels: int) -> None:
        """V-JEPA's normal(0, 0.02), cut off at 2; projected features have a variance of 1."""
        nn.init.trunc_normal_(self.queries, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.embed[1].get_parameter("weight"), std=channels**-0.5)


def position_code(tokens_bthwc: Tensor) -> Tensor:
    """Sines and cosines of the frame, row and column of each token: [T, H, W, C], like the tokens.

    ``C``: a multiple of 8.
    """
    frames, rows, columns, channels = tokens_bthwc.shape[1:]
    shape = (frames, rows, columns, -1)
    codes = [
        _sines(frames, channels // 2, tokens_bthwc)[:, None, None].expand(shape),
        _sines(rows, channels // 4, tokens_bthwc)[None, :, None].expand(shape),
        _sines(columns, channels // 4, tokens_bthwc)[None, None, :].expand(shape),
    ]
    return torch.cat(codes, dim=-1).to(tokens_bthwc.dtype)


def _sines(length: int, channels: int, like: Tensor) -> Tensor:
    """[length, channels]: half of the channels are sines, the others cosines of the same frequencies."""
    options: Any = {
        "dtype": torch.promote_types(like.dtype, torch.float32),  # angles need it, under autocast too
        "device": like.device,
    }
    half = channels // 2
    frequencies = _SLOWEST ** -(torch.arange(half, **options) / half)
    angles = torch.arange(length, **options)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
