"""Batch normalisation over groups of a fixed number of clips."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupBatchNorm3d(nn.BatchNorm3d):
    """``nn.BatchNorm3d`` whose training statistics are taken over groups of ``group_size`` clips.

    With ``group_size`` None it is ``nn.BatchNorm3d``. Otherwise each run of ``group_size`` consecutive
    clips is normalised by its own mean and variance ("BN statistics are computed within each 8 clips",
    SlowFast, arXiv 1812.03982, appendix A), and the running statistics wait for ``commit_batch_norm``:
    they then move once per step towards the mean over all groups of the step, so that they depend
    neither on the micro-batch nor on the number of workers. Parameters, buffers and evaluation are
    those of ``nn.BatchNorm3d``.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.group_size: int | None = None
        self.pending: list[Tensor] = []  # [2, C] per group since the last commit: mean, unbiased variance

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> the same shape; in training B must be a multiple of ``group_size``."""
        if not self.training or self.group_size is None:
            return super().forward(features_bcthw)
        if features_bcthw.shape[0] % self.group_size:
            raise ValueError(
                f"{features_bcthw.shape[0]} clips are no multiple of the batch-norm group {self.group_size}"
            )
        groups = features_bcthw.chunk(features_bcthw.shape[0] // self.group_size)
        normalised = [self._normalise(group) for group in groups]
        return normalised[0] if len(normalised) == 1 else torch.cat(normalised)

    def _normalise(self, group_bcthw: Tensor) -> Tensor:
        statistics = torch.zeros(2, self.num_features, device=group_bcthw.device)
        # With momentum 1 the "running" statistics become exactly those of this group.
        normalised = F.batch_norm(
            group_bcthw, statistics[0], statistics[1], self.weight, self.bias, True, 1.0, self.eps
        )
        self.pending.append(statistics)
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
    may hold different numbers of groups.
    """
    layers = list(_layers(model))
    if not layers:
        return
    device = layers[0].weight.device
    sums = [
        torch.stack(layer.pending).sum(0, dtype=torch.float64).flatten()
        if layer.pending
        else torch.zeros(2 * layer.num_features, dtype=torch.float64, device=device)
        for layer in layers
    ]
    count = torch.tensor([len(layers[0].pending)], dtype=torch.float64, device=device)
    total = torch.cat([count, *sums])
    if all_reduce is not None:
        all_reduce(total)
    means = (total[1:] / total[0].clamp(min=1)).float()
    start = 0
    for layer in layers:
        mean, variance = means[start : start + 2 * layer.num_features].view(2, -1)
        start += 2 * layer.num_features
        assert layer.running_mean is not None and layer.running_var is not None
        assert layer.num_batches_tracked is not None and layer.momentum is not None
        layer.running_mean.lerp_(mean, layer.momentum)
        layer.running_var.lerp_(variance, layer.momentum)
        layer.num_batches_tracked.add_(1)
        layer.pending.clear()


def discard_batch_norm(model: nn.Module) -> None:
    """Forget the groups seen since the last commit: the step is not going to happen."""
    for layer in _layers(model):
        layer.pending.clear()


def _layers(model: nn.Module) -> list[GroupBatchNorm3d]:
    return [module for module in model.modules() if isinstance(module, GroupBatchNorm3d)]
