"""The interface of a loss."""

from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """The loss of one head."""

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """The loss of every clip: float32 [B].

        ``logits_bk``: float32 [B, classes]. ``targets``: for clips of a single class int64 [B], or, if a
        recipe mixes or smooths labels, float32 [B, classes] that sum to 1; for clips of several classes
        float32 [B, classes] from 0 to 1. The value for a clip whose label is not known is ignored.
        """
        ...
