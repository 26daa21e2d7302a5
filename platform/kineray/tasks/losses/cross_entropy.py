"""Cross-entropy."""

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from kineray.config.losses.cross_entropy import CrossEntropyConfig


class CrossEntropy:
    """-sum of q log softmax(logits), where q is one-hot for the class of the clip, or its soft label."""

    def __init__(self, _config: "CrossEntropyConfig") -> None:
        pass

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """[B, classes], int64 [B] or float32 [B, classes] -> [B]."""
        return F.cross_entropy(logits_bk, targets, reduction="none")
