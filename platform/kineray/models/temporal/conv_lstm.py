"""A convolutional LSTM over feature maps: Shi et al., arXiv 1506.04214, equation 3.

    i = sigmoid(W_xi * x + W_hi * h + b_i)        f = sigmoid(W_xf * x + W_hf * h + b_f)
    c' = f c + i tanh(W_xc * x + W_hc * h + b_c)  o = sigmoid(W_xo * x + W_ho * h + b_o)
    h' = o tanh(c')

without the paper's terms W_c c ("peepholes"), which Keras and the published parameter counts do not have.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, kaiming_init_


class ConvLstmCell(nn.Module):
    """One step. Along the channels of both convolutions the gates are in the order i, f, c, o.

    ``kernel``: size of both convolutions. ``stride``: that of the input convolution alone, so the maps of the
    state have a side of ceil(H / stride). The padding is TensorFlow's "same": if the number of zeros is odd,
    there is one more after the map than before it.
    """

    def __init__(self, channels: int, filters: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.input = nn.Conv2d(channels, 4 * filters, kernel, stride=stride)
        self.recurrent = nn.Conv2d(filters, 4 * filters, kernel, bias=False)
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.orthogonal_(self.recurrent.weight)
        assert self.input.bias is not None
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias[filters : 2 * filters])  # forget gates start open

    def gates(self, maps_nchw: Tensor) -> Tensor:
        """What the input contributes to the gates: [N, C, H, W] -> [N, 4 filters, H / stride, W / stride].

        Height and width are rounded up. It does not depend on the state, so all frames can be given at once.
        """
        gates: Tensor = self.input(_pad(maps_nchw, self.kernel, self.stride))
        return gates

    def forward(self, gates_nchw: Tensor, state: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """``gates`` of the input, and state and memory of the previous step -> new state and memory."""
        gates = gates_nchw + self.recurrent(_pad(state, self.kernel, 1))
        take, keep, content, give = gates.chunk(4, dim=1)
        memory = torch.sigmoid(keep) * memory + torch.sigmoid(take) * torch.tanh(content)
        return torch.sigmoid(give) * torch.tanh(memory), memory


class ConvLstm(Temporal):
    """The last state of a convolutional LSTM, a batch norm, a global max pool and a hidden layer.

    ``norm``: whether there is a batch norm. ``dense``: units of the hidden layer; 0 for none.
    """

    def __init__(
        self, channels: int, filters: int, *, kernel: int, stride: int, norm: bool, dense: int
    ) -> None:
        super().__init__(dense or filters)
        self.cell = ConvLstmCell(channels, filters, kernel, stride)
        self.filters = filters
        self.norm = GhostBatchNorm(filters) if norm else nn.Identity()
        self.dense = nn.Sequential(nn.Linear(filters, dense), nn.ReLU()) if dense else nn.Identity()
        kaiming_init_(self.dense)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, dense or filters]."""
        gates = torch.unflatten(self.cell.gates(maps_btchw.flatten(0, 1)), 0, maps_btchw.shape[:2])
        state = memory = torch.zeros_like(gates[:, 0, : self.filters])
        for frame in gates.unbind(1):
            state, memory = self.cell(frame, state, memory)
        features: Tensor = self.dense(self.norm(state).amax((2, 3)))
        return features


def _pad(maps_nchw: Tensor, kernel: int, stride: int) -> Tensor:
    height, width = (_border(side, kernel, stride) for side in maps_nchw.shape[2:])
    return F.pad(maps_nchw, (*width, *height))


def _border(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """How many zeros before and after ``side`` positions make ceil(side / stride) windows fit."""
    total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2
