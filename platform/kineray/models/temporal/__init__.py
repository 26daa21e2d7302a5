"""Temporal subsystems: what makes features of a clip of the feature maps of its frames."""

from kineray.config import (
    AttentionConfig,
    AverageConfig,
    ConsensusConfig,
    Conv1dConfig,
    ConvLstmConfig,
    GruConfig,
    LstmConfig,
    ResidualConfig,
    TemporalConfig,
)
from kineray.models.temporal.attention import Attention
from kineray.models.temporal.average import Average, EveryFrame
from kineray.models.temporal.base import Temporal
from kineray.models.temporal.conv1d import Conv1d
from kineray.models.temporal.conv_lstm import ConvLstm
from kineray.models.temporal.recurrent import Gru, Lstm
from kineray.models.temporal.residual import Residual
from kineray.models.temporal.timeception import Timeception

__all__ = ["Temporal", "build_temporal"]


def build_temporal(config: TemporalConfig, channels: int) -> Temporal:  # noqa: PLR0911 - a table of types
    """A new, randomly initialised subsystem for feature maps of ``channels``."""
    match config:
        case AverageConfig():
            return Average(channels, config.z_norm)
        case ConsensusConfig():
            return EveryFrame(channels)
        case GruConfig():
            return Gru(channels, config.units, config.z_norm)
        case LstmConfig():
            return Lstm(channels, config.units)
        case ConvLstmConfig():
            return ConvLstm(
                channels,
                config.filters,
                kernel=config.kernel,
                stride=config.stride,
                norm=config.norm,
                dense=config.dense,
            )
        case Conv1dConfig():
            return Conv1d(channels)
        case ResidualConfig():
            return Residual(channels, config.width, config.kernel)
        case AttentionConfig():
            return Attention(channels, config.filters, config.kernel)
        case _:
            return Timeception(channels, config.layers, config.groups, dilated=config.dilated)
