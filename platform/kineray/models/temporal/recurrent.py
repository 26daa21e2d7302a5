"""Recurrent networks over the frames' features: LSTM and GRU."""

from torch import Tensor, nn

from kineray.config.fields import ZNorm
from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, pool_space
from kineray.models.temporal.z_norm import build_z_norm


class Lstm(Temporal):
    """The last state of an LSTM, through a batch norm.

    torch adds two biases in every gate, where one is enough. The second one stays 0 and is not trained, which
    leaves 4 units (channels + units + 1) trainable parameters, as in Keras.
    """

    def __init__(self, channels: int, units: int) -> None:
        super().__init__(units)
        self.lstm = nn.LSTM(channels, units, batch_first=True)
        self.norm = GhostBatchNorm(units)
        _initialise(self.lstm)
        forget_bias = self.lstm.get_parameter("bias_ih_l0")[units : 2 * units]
        nn.init.ones_(forget_bias)  # forget gates start open
        self.lstm.get_parameter("bias_hh_l0").requires_grad_(False)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, units]."""
        states_btu, _ = self.lstm(pool_space(maps_btchw))
        features: Tensor = self.norm(states_btu[:, -1])
        return features


class Gru(Temporal):
    """The last state of a GRU that reads the frames' features, or their z-scores."""

    def __init__(self, channels: int, units: int, z_norm: ZNorm) -> None:
        super().__init__(units)
        self.z_norm = build_z_norm(z_norm, channels)
        self.gru = nn.GRU(channels, units, batch_first=True)
        _initialise(self.gru)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, units]."""
        states_btu: Tensor = self.gru(self.z_norm(pool_space(maps_btchw)))[0]
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
