"""Classification heads."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.errors import ConfigError
from kineray.models.blocks import ClipDropout

AUXILIARY = "aux."  # prefix of a head's name: logits of an auxiliary classifier, in training only


class Classifiers(nn.Module):
    """A linear classifier for each named head, after dropout; a model's attribute ``head`` is one of these.

    The weights are initialised from normal(0, 0.01).
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


class MeanOfProbabilities(nn.Module):
    """Base of layers that average probabilities: softmax, or sigmoid after ``use_sigmoid``."""

    sigmoid = False

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, which are the last dimension."""
        return logits.sigmoid() if self.sigmoid else logits.softmax(dim=-1)

    def mean_logits(self, logits_bpk: Tensor) -> Tensor:
        """Logits at P positions, [B, P, classes] -> logits [B, classes] of their mean probabilities."""
        count = logits_bpk.shape[1]
        if count == 1:
            return logits_bpk[:, 0]
        logits_bpk = logits_bpk.to(torch.promote_types(logits_bpk.dtype, torch.float32))
        if self.sigmoid:
            present, absent = (F.logsigmoid(sign * logits_bpk).logsumexp(dim=1) for sign in (1, -1))
            return present - absent
        return logits_bpk.log_softmax(dim=2).logsumexp(dim=1) - math.log(count)


def use_sigmoid(model: nn.Module) -> None:
    """Make ``model`` use the sigmoid wherever it averages probabilities, for multi-label tasks."""
    for layer in model.modules():
        if isinstance(layer, MeanOfProbabilities):
            layer.sigmoid = True


class Head(Classifiers, MeanOfProbabilities):
    """Pools the features of every pathway, concatenates them, and classifies them for each named head.

    The pooling window spans all frames and ``pool`` x ``pool`` positions of the map, with stride 1. A
    larger map (from a larger crop than in training) is classified at every position and the
    probabilities are averaged: the fully-convolutional inference of the non-local and SlowFast papers.
    """

    def __init__(self, channels: int, heads: Mapping[str, int], pool: int, dropout: float) -> None:
        super().__init__(channels, heads, dropout)
        self.pool = pool

    def forward(self, pathways_bcthw: Sequence[Tensor]) -> dict[str, Tensor]:
        """Features of each pathway, [B, C_p, T_p, H, W] -> {head: logits [B, classes]}.

        If there are several positions, the logits are those of the mean probabilities.
        """
        pooled = [self._pool(features) for features in pathways_bcthw]
        features_bpc = self.dropout(torch.cat(pooled, dim=1).flatten(2).transpose(1, 2))
        return {name: self.mean_logits(linear(features_bpc)) for name, linear in self.linear.items()}

    def _pool(self, features_bcthw: Tensor) -> Tensor:
        frames, height, width = features_bcthw.shape[2:]
        window = (frames, min(self.pool, height), min(self.pool, width))
        return F.avg_pool3d(features_bcthw, window, stride=1)


def check_heads(heads: Mapping[str, int]) -> None:
    """Raise ConfigError unless there is a head, and each has a usable name and at least one class."""
    if not isinstance(heads, Mapping) or not heads:
        raise ConfigError(
            f"{heads!r} names no head", code="empty", key="heads", remedy="give one, as in {'action': 400}"
        )
    reserved = nn.ModuleDict()
    for name, classes in heads.items():
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier() or hasattr(reserved, name):
            raise ConfigError(
                f"'{name}' cannot be the name of a head",
                code="bad_name",
                key="heads",
                remedy="use another word, as in 'action'",
            )
        if not isinstance(classes, int) or classes < 1:
            raise ConfigError(
                f"'{name}' has {classes!r} classes",
                code="out_of_range",
                key="heads",
                remedy="give at least 1",
            )
