"""Losses: one file for each, and its configuration in ``config/losses``.

The same thing in a user's own file:

    class FocalConfig(kineray.LossSection, type="focal"):
        gamma: float = 2.0

        def build(self):
            return lambda logits_bk, targets: focal_loss(logits_bk, targets, self.gamma)

``task.loss.type=focal task.loss.gamma=1`` selects it.
"""

from kineray.tasks.losses.base import Loss

__all__ = ["Loss"]
