"""Dropout that does not depend on how a batch is split."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClipDropout(nn.Module):
    """Dropout whose mask for a clip is a pure function of that clip's seed, if ``clip_seeds`` are set.

    So the same features of a clip are dropped on every device, in every micro-batch and on every worker, and
    a resumed run needs no random state. ``rows_per_clip``: number of frames of a clip if the frames are in
    the batch dimension (``fold_frames``), otherwise 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.rows_per_clip = 1
        self.clip_seeds: Sequence[int] | None = None

    def forward(self, features: Tensor) -> Tensor:
        """[B, ...] -> the same shape, scaled by 1 / (1 - p) in training."""
        if not self.training or self.p == 0:
            return features
        if self.clip_seeds is None:
            return F.dropout(features, self.p)
        of_clip = torch.unflatten(features, 0, (-1, self.rows_per_clip))
        if len(self.clip_seeds) != of_clip.shape[0]:
            raise ValueError(f"{len(self.clip_seeds)} clip seeds for {of_clip.shape[0]} clips")
        kept = torch.cat([self._kept(seed, of_clip.shape[1:]) for seed in self.clip_seeds])
        scale = kept.to(features.dtype).div_(1 - self.p)
        return features * scale.to(features.device, non_blocking=True)

    def _kept(self, seed: int, shape: torch.Size) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(shape, generator=generator) >= self.p


def set_clip_seeds(model: nn.Module, seeds: Sequence[int] | None) -> None:
    """Set one seed per clip for the next forward pass; None returns to ordinary dropout.

    Each layer's seeds are derived from these and the layer's name in ``model``, so layers of equal shape
    drop different features.
    """
    for name, module in model.named_modules():
        if isinstance(module, ClipDropout):
            module.clip_seeds = None if seeds is None else [_layer_seed(seed, name) for seed in seeds]


def _layer_seed(seed: int, layer: str) -> int:
    digest = hashlib.sha256(f"{seed}/{layer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
