"""What makes one clip of many frames: the temporal subsystems, a union tagged by ``type``."""

from typing import Annotated, Literal

from pydantic import Field

from kineray.config.fields import KernelSize, NonNegativeInt, PositiveInt, Section


class TemporalSection(Section):
    """Base of every temporal subsystem's configuration."""

    def check_frames(self, frames: int) -> None:
        """Raise ValueError, naming ``data.frames``, for clips that the subsystem cannot take."""


class AverageConfig(TemporalSection):
    """The mean of the frames' features; ``z_norm``: each frame's are first brought to mean 0, variance 1."""

    type: Literal["average"] = "average"
    z_norm: bool = False


class ConsensusConfig(TemporalSection):
    """Every frame is classified, and the logits are averaged (TSN, arXiv 1608.00859)."""

    type: Literal["consensus"] = "consensus"


class GruConfig(TemporalSection):
    """The last state of a GRU of ``units`` (arXiv 1406.1078); ``z_norm`` as for the average."""

    type: Literal["gru"] = "gru"
    units: PositiveInt = 128
    z_norm: bool = False


class LstmConfig(TemporalSection):
    """The last state of an LSTM of ``units``, through a batch norm."""

    type: Literal["lstm"] = "lstm"
    units: PositiveInt = 50


class ConvLstmConfig(TemporalSection):
    """The last state of a convolutional LSTM (arXiv 1506.04214), through a global max pool.

    ``kernel`` and ``stride``: of its input convolution, in positions of the feature map. ``norm``: with a
    batch norm before the pool. ``dense``: units of a hidden layer after it; 0 for none.
    """

    type: Literal["conv_lstm"] = "conv_lstm"
    filters: PositiveInt = 8
    kernel: PositiveInt = 4
    stride: PositiveInt = 4
    norm: bool = True
    dense: NonNegativeInt = 0


class Conv1dConfig(TemporalSection):
    """Nine temporal convolutions without padding, which make one position of exactly 20 frames."""

    type: Literal["conv1d"] = "conv1d"

    def check_frames(self, frames: int) -> None:
        """Raise ValueError unless there are 20 frames."""
        if frames != 20:
            raise ValueError(f"data.frames {frames}: model.temporal.type=conv1d takes exactly 20 frames")


class ResidualConfig(TemporalSection):
    """The frames' features plus two temporal convolutions of them, averaged over time.

    ``width``: channels between the two convolutions.
    """

    type: Literal["residual"] = "residual"
    width: PositiveInt = 128
    kernel: KernelSize = 3


class TimeceptionConfig(TemporalSection):
    """Timeception layers (arXiv 1812.01289), each of which halves the number of frames.

    ``groups``: of channels, which are convolved apart. Scales in time are kernels of 3, 5 and 7 frames;
    with ``dilated``, kernels of 3 with dilations of 1, 2 and 3.
    """

    type: Literal["timeception"] = "timeception"
    layers: PositiveInt = 4
    groups: PositiveInt = 8
    dilated: bool = False

    def check_frames(self, frames: int) -> None:
        """Raise ValueError unless there are frames left after the last layer."""
        if frames < 2**self.layers:
            raise ValueError(
                f"data.frames {frames} is less than {2**self.layers}, which {self.layers} Timeception layers "
                "need; give more frames, or set model.temporal.layers lower"
            )


class AttentionConfig(TemporalSection):
    """Spatial attention led by a convolutional LSTM of ``filters``, ``kernel`` x ``kernel`` positions."""

    type: Literal["attention"] = "attention"
    filters: PositiveInt = 64
    kernel: KernelSize = 3


TemporalConfig = Annotated[
    AverageConfig
    | ConsensusConfig
    | GruConfig
    | LstmConfig
    | ConvLstmConfig
    | Conv1dConfig
    | ResidualConfig
    | TimeceptionConfig
    | AttentionConfig,
    Field(discriminator="type"),
]
