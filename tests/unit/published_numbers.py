"""The numbers of a network that papers and model zoos publish: parameters and multiply-adds."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from kineray.models import model_presets


def size(module):
    """The number of parameters, trainable or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(model, name):
    """Multiply-adds of the convolutions for one clip of the preset, in billions; ``model`` is on meta."""
    preset = model_presets()[name]
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, preset.channels, preset.frames, preset.side, preset.side, device="meta"))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution] / 2e9
