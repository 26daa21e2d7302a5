"""The classification head."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.errors import ConfigError
from kineray.models.blocks import ClipDropout

AUXILIARY = "aux."  # before a head's name: logits of a classifier in the middle of the network, in training


class Classifiers(nn.Module):
    """A linear classifier for each named head, after dropout. Every model has its own in ``head``.

    Their weights start as normal(0, 0.01).
    """

    def __init__(self, channels: int, heads: Mapping[str, int], dropout: float) -> None:
        super().__init__()
        check_heads(heads)
        self.dropout = ClipDropout(dropout)
        self.linear = nn.ModuleDict({name: nn.Linear(channels, classes) for name, classes in heads.items()})
        for linear in self.linear.values():
            nn.init.normal_(linear.get_parameter("weight"), std=0.01)
            nn.init.zeros_(linear.get_parameter("bias"))


class FeatureHead(Classifiers):
    """Classifies the features of a clip."""

    def forward(self, features_bc: Tensor) -> dict[str, Tensor]:
        """[B, C] -> {head: logits [B, classes]}."""
        dropped_bc = self.dropout(features_bc)
        return {name: linear(dropped_bc) for name, linear in self.linear.items()}


class Head(Classifiers):
    """Pools every pathway, concatenates, and classifies once for each named head.

    The pooling window spans all frames and ``pool`` x ``pool`` positions of the map, with stride 1. A
    larger map (a larger crop than in training) is classified at every position and the
    probabilities are averaged: the fully-convolutional inference of the non-local and SlowFast papers.
    """

    def __init__(self, channels: int, heads: Mapping[str, int], pool: int, dropout: float) -> None:
        super().__init__(channels, heads, dropout)
        self.pool = pool

    def forward(self, pathways_bcthw: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features of each pathway, [B, C_p, T_p, H, W] -> {head: logits [B, classes]}.

        With several positions the logits are log(mean of the probabilities).
        """
        pooled = [self._pool(features) for features in pathways_bcthw]
        features_bpc = self.dropout(torch.cat(pooled, dim=1).flatten(2).transpose(1, 2))
        return {name: _average_positions(linear(features_bpc)) for name, linear in self.linear.items()}

    def _pool(self, features_bcthw: Tensor) -> Tensor:
        frames, height, width = features_bcthw.shape[2:]
        window = (frames, min(self.pool, height), min(self.pool, width))
        return F.avg_pool3d(features_bcthw, window, stride=1)


def check_heads(heads: Mapping[str, int]) -> None:
    """Raise ConfigError unless there is a head, each has a usable name and at least one class."""
    if not isinstance(heads, Mapping) or not heads:
        raise ConfigError(f"heads: {heads!r} names none; give at least one, as in {{'action': 400}}")
    reserved = nn.ModuleDict()
    for name, classes in heads.items():
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier() or hasattr(reserved, name):
            raise ConfigError(
                f"heads: '{name}' cannot be the name of a head; use another word, as in 'action'"
            )
        if not isinstance(classes, int) or classes < 1:
            raise ConfigError(f"heads: '{name}' has {classes!r} classes; it needs at least one")


def _average_positions(logits_bpk: Tensor) -> Tensor:
    if logits_bpk.shape[1] == 1:
        return logits_bpk[:, 0]
    dtype = torch.promote_types(logits_bpk.dtype, torch.float32)
    log_probabilities = F.log_softmax(logits_bpk, dim=2, dtype=dtype)
    return torch.logsumexp(log_probabilities, dim=1) - math.log(logits_bpk.shape[1])
