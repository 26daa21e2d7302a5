"""Binary cross-entropy."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from kineray.config.losses.binary_cross_entropy import BinaryCrossEntropyConfig


class BinaryCrossEntropy:
    """Cross-entropy of the sigmoid of each logit, averaged over the classes."""

    def __init__(self, _config: "BinaryCrossEntropyConfig") -> None:
        pass

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """[B, classes], float32 [B, classes] -> [B]."""
        return F.binary_cross_entropy_with_logits(logits_bk, targets, reduction="none").mean(dim=1)
