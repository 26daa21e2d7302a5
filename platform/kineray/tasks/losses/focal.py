"""Focal loss (Lin et al., arXiv 1708.02002)."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from kineray.tasks.losses.base import focus

if TYPE_CHECKING:
    from kineray.config.losses.focal import FocalConfig


class Focal:
    """-sum of q (1 - p)^gamma log p, where p is the softmax and q one-hot, or the soft label.

    So the loss of mixed targets is the mixed loss, as for cross-entropy.
    """

    def __init__(self, config: "FocalConfig") -> None:
        self._gamma = config.gamma

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """[B, classes], int64 [B] or float32 [B, classes] -> [B]."""
        log_bk = logits_bk.log_softmax(dim=1)
        if not targets.is_floating_point():
            targets = F.one_hot(targets, logits_bk.shape[1])
        return -(targets * focus(1 - log_bk.exp(), self._gamma) * log_bk).sum(dim=1)
