"""Losses: one file each, with a configuration in ``config/losses``.

A user's loss is a class in a plug-in:

    class FocalConfig(kineray.LossSection, type="focal"):
        gamma: float = 2.0

        def build(self):
            return lambda logits_bk, targets: focal_loss(logits_bk, targets, self.gamma)

``task.loss.type=focal task.loss.gamma=1`` selects it.
"""

from kineray.tasks.losses.base import Loss

__all__ = ["Loss"]
