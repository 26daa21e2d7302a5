"""Spatial attention guided by a memory.

The idea is that of LSTA (Sudhakaran, Escalera, Lanz, arXiv 1811.10698): what was seen before decides where to
look in a frame. It is simpler than LSTA: the attention has no separate recurrent state and no pooling by
class, and the output gate is that of an ordinary ConvLSTM. For every frame x, with state h:

    a = softmax over positions of (v * x + u * h)       v: 1x1, u: kernel x kernel convolution, to one map
    x' = H W a x                                        the mean weight is 1, whatever the size of the map
    h, c = ConvLSTM(x', h, c)

The features of the clip are the mean of the last memory c over its positions.
"""

import torch
from torch import Tensor, nn

from kineray.models.temporal.base import Temporal, kaiming_init_
from kineray.models.temporal.conv_lstm import ConvLstmCell


class Attention(Temporal):
    """The subsystem; its memory has ``filters`` channels, and kernels of the odd size ``kernel``."""

    def __init__(self, channels: int, filters: int, kernel: int) -> None:
        super().__init__(filters)
        self.look = nn.Conv2d(channels, 1, 1, bias=False)
        self.recall = nn.Conv2d(filters, 1, kernel, padding=kernel // 2, bias=False)
        self.cell = ConvLstmCell(channels, filters, kernel)
        kaiming_init_(self.look)
        kaiming_init_(self.recall)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, filters]."""
        batch, _, _, height, width = maps_btchw.shape
        state = memory = maps_btchw.new_zeros(batch, self.features, height, width)
        for frame in maps_btchw.unbind(1):
            attended = frame * self.weights(frame, state)
            state, memory = self.cell(self.cell.gates(attended), state, memory)
        return memory.mean((2, 3))

    def weights(self, frame_bchw: Tensor, state_bchw: Tensor) -> Tensor:
        """The weight of every position: [B, 1, H, W], with mean 1."""
        scores: Tensor = self.look(frame_bchw) + self.recall(state_bchw)
        share = torch.softmax(scores.flatten(1), dim=1) * scores[0].numel()
        return share.view_as(scores)
