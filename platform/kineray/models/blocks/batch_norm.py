"""Batch normalisation over groups of a fixed number of clips."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GhostBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation whose training statistics are taken over groups of ``group_size`` clips.

    With ``group_size`` None it is ``nn.BatchNorm1d``, ``2d`` or ``3d``, by its input. Otherwise each run of
    ``group_size`` consecutive clips is normalised by its own mean and variance ("BN statistics are
    computed within each 8 clips", SlowFast, arXiv 1812.03982, appendix A), and the running statistics wait
    for ``commit_batch_norm``: they then move once per step towards the mean over all groups of the step,
    so that they depend neither on the micro-batch nor on the number of workers. Parameters, buffers and
    evaluation are those of ``nn.BatchNorm3d``. The frames of a clip may lie one after the other in the batch
    dimension (``fold_frames``): ``set_clip_seeds`` says how many clips there are.
    """

    group_size: int | None = None
    clips: int | None = None  # of the next forward pass; None: as many as rows
    is_repeated = False  # this forward pass was made before: its statistics are already pending
    values = 0  # of each channel in the last group

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, *, affine: bool = True
    ) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum, affine=affine)
        self.pending: list[Tensor] = []  # [2, C] per group since the last commit: mean, unbiased variance

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, ...] -> the same shape; in training there must be a multiple of ``group_size`` clips."""
        if not self.training or (self.group_size is None and not self.is_repeated):
            return super().forward(features)
        rows = self._group_rows(len(features))
        if rows == len(features):  # the backward pass of a split would copy the gradient
            return self._normalise(features)
        return torch.cat([self._normalise(group) for group in torch.split(features, rows)])

    def _group_rows(self, rows: int) -> int:
        """How many of ``rows`` are a group: all of them where they are not those of whole clips."""
        clips = self.clips or rows
        if self.group_size is None or rows % clips:
            return rows
        if clips % self.group_size:
            raise ValueError(f"{clips} clips are not a multiple of the batch-norm group {self.group_size}")
        return self.group_size * (rows // clips)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions."""

    def _normalise(self, group: Tensor) -> Tensor:
        assert self.running_mean is not None
        dtype = self.running_mean.dtype  # not that of autocast
        statistics = torch.zeros(2, self.num_features, dtype=dtype, device=group.device)
        # With momentum 1 the "running" statistics become exactly those of this group.
        normalised = F.batch_norm(
            group, statistics[0], statistics[1], self.weight, self.bias, True, 1.0, self.eps
        )
        if not self.is_repeated:
            self.pending.append(statistics)
            self.values = group.numel() // self.num_features
        return normalised


def set_batch_norm_group(model: nn.Module, size: int | None) -> None:
    """Take training statistics over groups of ``size`` clips (None: over the whole batch)."""
    for layer in _layers(model):
        layer.group_size = size
        layer.pending.clear()


@torch.no_grad()
def commit_batch_norm(model: nn.Module, all_reduce: Callable[[Tensor], None] | None = None) -> None:
    """Move the running statistics of every layer, once, towards the mean over the groups of a step.

    ``all_reduce`` sums a float64 tensor in place over all workers; it is called exactly once. Workers
    may have different numbers of groups.
    """
    layers = [layer for layer in _layers(model) if layer.training]  # frozen layers do not change
    if not layers:
        return
    assert layers[0].running_mean is not None
    device = layers[0].running_mean.device
    sums = [
        torch.stack(layer.pending).sum(0, dtype=torch.float64).flatten()
        if layer.pending
        else torch.zeros(2 * layer.num_features, dtype=torch.float64, device=device)
        for layer in layers
    ]
    # A layer that is called several times in a pass (in recurrent networks) has more groups than others.
    counts = torch.tensor([len(layer.pending) for layer in layers], dtype=torch.float64, device=device)
    total = torch.cat([counts, *sums])
    if all_reduce is not None:
        all_reduce(total)
    start = len(layers)
    for layer, count in zip(layers, total[: len(layers)].clamp(min=1), strict=True):
        assert layer.running_mean is not None and layer.running_var is not None
        means = (total[start : start + 2 * layer.num_features] / count).to(layer.running_mean.dtype)
        mean, variance = means.view(2, -1)
        start += 2 * layer.num_features
        assert layer.num_batches_tracked is not None and layer.momentum is not None
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance, layer.momentum)
        layer.num_batches_tracked.add_(1)
        layer.pending.clear()


def discard_batch_norm(model: nn.Module) -> None:
    """Forget the groups seen since the last commit, for a step that is given up."""
    for layer in _layers(model):
        layer.pending.clear()


class PopulationStatistics:
    """Mean and variance of the inputs of every batch norm in training mode, over many groups of clips.

    Wu and Johnson, arXiv 2105.07576, section 3.1: of groups of equal size, the mean of their means, and
    E[mean^2 + variance] - E[mean]^2 with the biased variance of a group. That is the variance of all values
    together; the mean of the groups' variances, which fvcore took at first, lacks what is between groups.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in _layers(model) if layer.training]
        self._sums = [
            torch.zeros(1 + 2 * layer.num_features, dtype=torch.float64, device=_device(layer))
            for layer in self._layers
        ]

    @torch.no_grad()
    def add(self) -> None:
        """Take in the groups of the forward passes since the last call."""
        for layer, sums in zip(self._layers, self._sums, strict=True):
            if layer.pending:
                means_gc, variances_gc = torch.stack(layer.pending).double().unbind(1)
                squares_gc = means_gc.square() + variances_gc * (1 - 1 / layer.values)
                sums[0] += len(layer.pending)
                sums[1:] += torch.cat([means_gc.sum(0), squares_gc.sum(0)])
                layer.pending.clear()

    @torch.no_grad()
    def commit(self, all_reduce: Callable[[Tensor], None]) -> None:
        """Replace the running statistics of all layers, by the groups of all workers.

        ``all_reduce``: as in ``commit_batch_norm``. A layer that no group has passed keeps its statistics.
        """
        total = torch.cat(self._sums)
        all_reduce(total)
        by_layer = torch.split(total, [len(sums) for sums in self._sums])
        for layer, sums in zip(self._layers, by_layer, strict=True):
            assert layer.running_mean is not None and layer.running_var is not None
            if count := sums[0].item():
                mean_c, square_c = (sums[1:] / count).view(2, -1)
                layer.running_mean.copy_(mean_c)
                layer.running_var.copy_((square_c - mean_c.square()).clamp(min=0))


def _device(layer: GhostBatchNorm) -> torch.device:
    assert layer.running_mean is not None
    return layer.running_mean.device


def _layers(model: nn.Module) -> list[GhostBatchNorm]:
    return [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
