"""The interface of a loss, and what losses have in common."""

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


def focus(errors: Tensor, gamma: float) -> Tensor:
    """``errors`` ** ``gamma``, the weights of focal loss: ``errors`` are 1 minus the probability of a label.

    Below 1e-7 they count as that much: where ``gamma`` is below 1, the power has no derivative at 0.
    """
    return errors.clamp(min=1e-7) ** gamma
