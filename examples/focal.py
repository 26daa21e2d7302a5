"""A loss of your own: focal loss (Lin et al., arXiv 1708.02002), for classes of very different sizes.

kineray train experiments/slowfast.py --plugin examples/focal.py task.loss.type=focal task.loss.gamma=1
"""

from functools import partial

from torch import Tensor
from torch.nn import functional as F

import kineray


class FocalConfig(kineray.LossSection, type="focal"):
    """``gamma``: how much less a clip counts that is classified well already; 0 is cross-entropy."""

    gamma: float = 2.0

    def build(self) -> kineray.Loss:
        """What computes it."""
        return partial(focal_loss, gamma=self.gamma)


def focal_loss(logits_bk: Tensor, targets: Tensor, gamma: float) -> Tensor:
    """[B, classes] and int64 [B] or, where a recipe mixes targets, float32 [B, classes] -> [B]."""
    log_bk = logits_bk.log_softmax(dim=1)
    if not targets.is_floating_point():
        targets = F.one_hot(targets, logits_bk.shape[1])
    return -(targets * (1 - log_bk.exp()) ** gamma * log_bk).sum(dim=1)
