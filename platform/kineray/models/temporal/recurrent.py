"""Recurrent networks over the frames' features: LSTM and GRU."""

from torch import Tensor, nn

from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.average import z_normalise
from kineray.models.temporal.base import Temporal, pool_space


class Lstm(Temporal):
    """The last state of an LSTM, through a batch norm.

    torch adds two biases in every gate where one decides the function. The second one is kept at 0 and
    not trained, which leaves 4 units (channels + units + 1) parameters, as in Keras.
    """

    def __init__(self, channels: int, units: int) -> None:
        super().__init__(units)
        self.lstm = nn.LSTM(channels, units, batch_first=True)
        self.norm = GhostBatchNorm(units)
        _initialise(self.lstm)
        forget_bias = self.lstm.get_parameter("bias_ih_l0")[units : 2 * units]
        nn.init.ones_(forget_bias)  # a new network remembers
        self.lstm.get_parameter("bias_hh_l0").requires_grad_(False)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, units]."""
        states_btu, _ = self.lstm(pool_space(maps_btchw))
        features: Tensor = self.norm(states_btu[:, -1])
        return features


class Gru(Temporal):
    """The last state of a GRU, which with ``z_norm`` reads the z-scores of every frame's features."""

    def __init__(self, channels: int, units: int, z_norm: bool) -> None:
        super().__init__(units)
        self.z_norm = z_norm
        self.gru = nn.GRU(channels, units, batch_first=True)
        _initialise(self.gru)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, units]."""
        features_btc = pool_space(maps_btchw)
        if self.z_norm:
            features_btc = z_normalise(features_btc)
        states_btu: Tensor = self.gru(features_btc)[0]
        return states_btu[:, -1]


def _initialise(network: nn.RNNBase) -> None:
    """Glorot's uniform weights for the input, orthogonal ones for the state, biases 0, as in Keras."""
    for name, parameter in network.named_parameters():
        if name.startswith("weight_ih"):
            nn.init.xavier_uniform_(parameter)
        elif name.startswith("weight_hh"):
            nn.init.orthogonal_(parameter)
        else:
            nn.init.zeros_(parameter)
