"""What a loss is."""

from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    """The loss of one head."""

    def __call__(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """Of every clip: float32 [B].

        ``logits_bk``: float32 [B, classes]. ``targets`` of clips of a single class: int64 [B], or float32
        [B, classes] that sum to 1, where a recipe mixes or smooths labels; of several classes: float32
        [B, classes] from 0 to 1. What is returned for a clip whose label is not known does not count.
        """
        ...
