"""Spatial attention guided by a convolutional LSTM."""

from kineray.config.domains import Choice
from kineray.config.fields import KernelSize, PositiveInt
from kineray.config.temporal.base import TemporalSection


class AttentionConfig(
    TemporalSection,
    type="attention",
    builds="kineray.models.temporal.attention.Attention",
    space={"filters": Choice(16, 32, 64, 128, ordered=True)},
):
    """Spatial attention guided by a convolutional LSTM.

    ``filters`` and ``kernel``: channels and kernel size of the LSTM's convolutions.
    """

    filters: PositiveInt = 64
    kernel: KernelSize = 3
