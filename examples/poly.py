"""A loss of your own: PolyLoss (Leng et al., arXiv 2204.12511), cross-entropy with a heavier first term.

kineray train experiments/slowfast.py --plugin examples/poly.py task.loss.type=poly task.loss.epsilon=1
"""

from functools import partial

from torch import Tensor
from torch.nn import functional as F

import kineray


class PolyConfig(kineray.LossSection, type="poly"):
    """``epsilon``: weight of 1 - p, where p is the probability of the clip's class; 0 is cross-entropy."""

    epsilon: float = 2.0

    def build(self) -> kineray.Loss:
        """What computes it."""
        return partial(poly_loss, epsilon=self.epsilon)


def poly_loss(logits_bk: Tensor, targets: Tensor, epsilon: float) -> Tensor:
    """[B, classes] and int64 [B] or, if a recipe mixes targets, float32 [B, classes] -> [B]."""
    log_bk = logits_bk.log_softmax(dim=1)
    if not targets.is_floating_point():
        targets = F.one_hot(targets, logits_bk.shape[1])
    return (targets * (epsilon * (1 - log_bk.exp()) - log_bk)).sum(dim=1)
