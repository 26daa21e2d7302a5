"""Cross-entropy."""

from kineray.config.losses.base import LossSection


class CrossEntropyConfig(
    LossSection, type="cross_entropy", builds="kineray.tasks.losses.cross_entropy.CrossEntropy"
):
    """Cross-entropy of the softmax over the classes of a head."""
