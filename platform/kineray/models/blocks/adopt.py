"""Adapting the networks of other libraries: batch norm, dropout, input channels, frames of a clip."""

import logging
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kineray.models.blocks.batch_norm import GhostBatchNorm
from kineray.models.blocks.dropout import ClipChannelDropout, ClipDropout

Module = TypeVar("Module", bound=nn.Module)
log = logging.getLogger(__name__)


class GhostBatchNorm1d(GhostBatchNorm, nn.BatchNorm1d):
    """An adopted ``nn.BatchNorm1d``."""


class GhostBatchNorm2d(GhostBatchNorm, nn.BatchNorm2d):
    """An adopted ``nn.BatchNorm2d``."""


class GhostBatchNorm3d(GhostBatchNorm, nn.BatchNorm3d):
    """An adopted ``nn.BatchNorm3d``."""


class AdoptedDropout(ClipDropout, nn.Dropout):
    """An adopted ``nn.Dropout``."""


class AdoptedDropout1d(ClipChannelDropout, nn.Dropout1d):
    """An adopted ``nn.Dropout1d``."""


class AdoptedDropout2d(ClipChannelDropout, nn.Dropout2d):
    """An adopted ``nn.Dropout2d``."""


class AdoptedDropout3d(ClipChannelDropout, nn.Dropout3d):
    """An adopted ``nn.Dropout3d``."""


_ADOPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
    nn.Dropout: AdoptedDropout,
    nn.Dropout1d: AdoptedDropout1d,
    nn.Dropout2d: AdoptedDropout2d,
    nn.Dropout3d: AdoptedDropout3d,
}

_INEXACT = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def adopt(network: Module) -> Module:
    """Make the batch norms and the dropout inside ``network`` exact; names, weights and evaluation stay.

    The statistics of ``nn.BatchNorm*`` are then taken over groups of clips (``GhostBatchNorm``), and what
    ``nn.Dropout*`` drop depends on the clip alone (``ClipDropout``). Other layers of these kinds stay as they
    are, with a warning: what they compute depends on how many workers there are. Residual blocks of
    torchvision become ``DroppableBlock``s. Returns ``network``.
    """
    for name, layer in list(network.named_modules()):
        if type(layer).__module__.startswith("torchvision."):
            from kineray.models.blocks.torchvision_blocks import adopt_block  # other networks do not need it

            adopt_block(layer)
        is_norm = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if type(layer) not in _ADOPTED or (is_norm and not _has_running_average(layer)):
            if isinstance(layer, _INEXACT) and not isinstance(layer, GhostBatchNorm | ClipDropout):
                log.warning("%s: the results of %s depend on the number of workers", name, layer)
            continue
        layer.__class__ = _ADOPTED[type(layer)]  # it stays the same object, which others may share
        if isinstance(layer, GhostBatchNorm):
            layer.pending = []
    return network


def _has_running_average(layer: Any) -> bool:
    return layer.track_running_stats and layer.momentum is not None


def replace_input_conv(network: Module, in_channels: int) -> Module:
    """Replace the first convolution of ``network`` by a new one for ``in_channels``, unless that is 3.

    The new one is initialised as in He et al., arXiv 1502.01852, by fan-out. Returns ``network``.
    """
    if in_channels == 3:
        return network
    name, old = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    make: Any = type(old)
    new = make(
        in_channels,
        old.out_channels,
        old.kernel_size,
        stride=old.stride,
        padding=old.padding,
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, new)
    return network


def fold_frames(network: nn.Module, clips_bcthw: Tensor) -> Tensor:
    """Apply an image network to every frame: [B, C, T, H, W] -> [B, T, ...].

    ``network`` takes [N, C, H, W].
    """
    images_nchw = clips_bcthw.transpose(1, 2).flatten(0, 1)
    outputs: Tensor = network(images_nchw)
    return torch.unflatten(outputs, 0, (-1, clips_bcthw.shape[2]))
