"""Losses: one file each, with a configuration in ``config/losses``.

A user's loss is a class in a plug-in:

    class PolyConfig(kineray.LossSection, type="poly"):
        epsilon: float = 2.0

        def build(self):
            return lambda logits_bk, targets: poly_loss(logits_bk, targets, self.epsilon)

``task.loss.type=poly task.loss.epsilon=1`` selects it.
"""

from kineray.tasks.losses.base import Loss

__all__ = ["Loss"]
