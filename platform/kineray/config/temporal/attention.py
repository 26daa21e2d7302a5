"""Spatial attention led by a convolutional LSTM."""

from kineray.config.fields import KernelSize, PositiveInt
from kineray.config.temporal.base import TemporalSection


class AttentionConfig(
    TemporalSection, type="attention", builds="kineray.models.temporal.attention.Attention"
):
    """Spatial attention led by a convolutional LSTM of ``filters``, ``kernel`` x ``kernel`` positions."""

    filters: PositiveInt = 64
    kernel: KernelSize = 3
