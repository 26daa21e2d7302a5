"""What papers and model zoos say of a network: its parameters and its multiply-adds."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from kineray.models import model_presets


def size(module):
    """Parameters, trainable or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(model, name):
    """Of the convolutions, in 1e9, for one clip of the preset; shapes decide it, so ``model`` is on meta."""
    preset = model_presets()[name]
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, preset.channels, preset.frames, preset.side, preset.side, device="meta"))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2e9
