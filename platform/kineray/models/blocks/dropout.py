"""Dropout that does not depend on how a batch is split."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks.batch_norm import GhostBatchNorm


class ClipDropout(nn.Module):
    """Dropout whose mask for a clip is a pure function of that clip's seed, if ``clip_seeds`` are set.

    So a clip loses the same features on every device, in every micro-batch and on every worker, and a
    resumed run needs no random state. The frames of a clip may lie one after the other in the batch
    dimension (``fold_frames``). What has another first dimension than clips gets ordinary dropout.
    """

    clip_seeds: Sequence[int] | None = None

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, features: Tensor) -> Tensor:
        """[B, ...] -> the same shape, scaled by 1 / (1 - p) in training."""
        if not self.training or self.p == 0:
            return features
        if self.clip_seeds is None or len(features) % len(self.clip_seeds):
            return self._ordinary(features)
        of_clip = torch.Size([len(features) // len(self.clip_seeds), *features.shape[1:]])
        kept = torch.cat([self._kept(seed, of_clip) for seed in self.clip_seeds])
        scale = kept.to(features.dtype).div_(1 - self.p)
        return features * scale.to(features.device, non_blocking=True)

    def _kept(self, seed: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(shape, generator=generator) >= self.p

    def _ordinary(self, features: Tensor) -> Tensor:
        return F.dropout(features, self.p)


class ClipChannelDropout(ClipDropout):
    """``ClipDropout`` that drops whole channels: [B, C, ...], as ``nn.Dropout1d`` to ``nn.Dropout3d`` do."""

    def _kept(self, seed: int, shape: torch.Size) -> Tensor:
        return super()._kept(seed, torch.Size([*shape[:2], *(1 for _ in shape[2:])]))

    def _ordinary(self, features: Tensor) -> Tensor:
        return torch.feature_dropout(features, self.p, train=True)


def set_clip_seeds(model: nn.Module, seeds: Sequence[int] | None) -> None:
    """Set one seed per clip for the next forward pass; None returns to ordinary dropout.

    Every dropout makes its own seeds of them and of its name in ``model``: layers of equal shape drop
    different features. Batch norms take from them how many clips there are.
    """
    for name, module in model.named_modules():
        if isinstance(module, ClipDropout):
            module.clip_seeds = None if seeds is None else [_layer_seed(seed, name) for seed in seeds]
        elif isinstance(module, GhostBatchNorm):
            module.clips = None if seeds is None else len(seeds)


def _layer_seed(seed: int, layer: str) -> int:
    digest = hashlib.sha256(f"{seed}/{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
