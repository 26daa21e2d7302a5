"""Binary cross-entropy."""

from typing import ClassVar

from kineray.config.fields import Labels
from kineray.config.losses.base import LossSection


class BinaryCrossEntropyConfig(
    LossSection,
    type="binary_cross_entropy",
    builds="kineray.tasks.losses.binary_cross_entropy.BinaryCrossEntropy",
):
    """Cross-entropy of the sigmoid of each class of a head, averaged over the classes."""

    labels: ClassVar[Labels] = "multiple"
