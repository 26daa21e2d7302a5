"""Adapting the networks of other libraries: batch norm, dropout, input channels, frames of a clip."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kineray.models.blocks.batch_norm import GhostBatchNorm
from kineray.models.blocks.dropout import ClipDropout

Module = TypeVar("Module", bound=nn.Module)


def adopt(network: Module) -> Module:
    """Replace the batch norms and dropout layers inside ``network``, in place.

    Batch-norm statistics are then taken over groups of clips (``GhostBatchNorm``), and dropout depends on the
    clip alone (``ClipDropout``). Names, weights and evaluation do not change. Returns ``network``.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, GhostBatchNorm):
            norm = GhostBatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(network, name, norm)
        elif isinstance(child, nn.Dropout):
            setattr(network, name, ClipDropout(child.p))
        else:
            adopt(child)
    return network


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

    ``network`` takes [N, C, H, W]; its batch norms and dropout have been replaced by ``adopt``.
    """
    frames = clips_bcthw.shape[2]
    for module in network.modules():
        if isinstance(module, GhostBatchNorm | ClipDropout):
            module.rows_per_clip = frames
    images_nchw = clips_bcthw.transpose(1, 2).flatten(0, 1)
    outputs: Tensor = network(images_nchw)
    return torch.unflatten(outputs, 0, (-1, frames))
