"""Focal loss of every class (Lin et al., arXiv 1708.02002)."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from kineray.tasks.losses.base import focus

if TYPE_CHECKING:
    from kineray.config.losses.binary_focal import BinaryFocalConfig


class BinaryFocal:
    """-a q (1 - p)^gamma log p - (1 - a) (1 - q) p^gamma log(1 - p), averaged over the classes.

    p is the sigmoid and q the target. So the loss of mixed targets is the mixed loss.
    """

    def __init__(self, config: "BinaryFocalConfig") -> None:
        self._gamma = config.gamma
        self._positive, self._negative = (
            (1.0, 1.0) if config.alpha is None else (config.alpha, 1 - config.alpha)
        )

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """[B, classes], float32 [B, classes] -> [B]."""
        probabilities_bk, complements_bk = logits_bk.sigmoid(), (-logits_bk).sigmoid()
        positive_bk = focus(complements_bk, self._gamma) * F.logsigmoid(logits_bk)
        negative_bk = focus(probabilities_bk, self._gamma) * F.logsigmoid(-logits_bk)
        losses_bk = self._positive * targets * positive_bk + self._negative * (1 - targets) * negative_bk
        return -losses_bk.mean(dim=1)
