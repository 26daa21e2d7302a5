"""A convolutional LSTM over the frames' feature maps."""

from kineray.config.domains import Choice
from kineray.config.fields import NonNegativeInt, PositiveInt
from kineray.config.temporal.base import TemporalSection


class ConvLstmConfig(
    TemporalSection,
    type="conv_lstm",
    builds="kineray.models.temporal.conv_lstm.ConvLstm",
    space={"filters": Choice(8, 16, 32, 64, ordered=True)},
):
    """The last state of a convolutional LSTM (arXiv 1506.04214), through a global max pool.

    ``kernel`` and ``stride``: size and stride of its input convolution, in positions of the feature map.
    ``norm``: whether there is a batch norm before the pool. ``dense``: units of a hidden layer after the
    pool; 0 for none.
    """

    filters: PositiveInt = 8
    kernel: PositiveInt = 4
    stride: PositiveInt = 4
    norm: bool = True
    dense: NonNegativeInt = 0
