"""Activation checkpointing: blocks keep their input alone and compute the rest again in the backward pass."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kineray.models.blocks.batch_norm import GroupBatchNorm


def checkpoint_activations(model: nn.Module) -> int:
    """Train ``model`` with less memory and a second forward pass; returns the number of its blocks.

    Blocks are the members of every ``nn.Sequential`` that have layers of their own (residual blocks,
    inception modules), and each ``nn.Sequential`` of nothing but layers, such as a stem. Logits, gradients
    and batch-norm statistics are the same to the bit. After Chen et al., Training Deep Nets with Sublinear
    Memory Cost, arXiv 1604.06174.
    """
    blocks = [block for block in _blocks(model) if not _is_heard(block)]
    for block in blocks:
        layers = [module for module in block.modules() if isinstance(module, GroupBatchNorm)]
        block.forward = _checkpointed(block.forward, layers)
    return len(blocks)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    children = list(module.children())
    if isinstance(module, nn.Sequential) and len(children) > 1 and not any(map(_has_layers, children)):
        yield module
        return
    for child in children:
        if isinstance(module, nn.Sequential) and _has_layers(child) and not isinstance(child, nn.Sequential):
            yield child
        else:
            yield from _blocks(child)


def _is_heard(block: nn.Module) -> bool:
    """Whether somebody waits for what is inside (mid fusion), and must not hear it twice."""
    return any(module._forward_hooks for module in block.modules() if module is not block)


def _has_layers(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _checkpointed(
    forward: Callable[[Tensor], Tensor], layers: Sequence[GroupBatchNorm]
) -> Callable[[Tensor], Tensor]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(layers)

    def run(features: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(features)
        outputs: Tensor = checkpoint(forward, features, use_reentrant=False, context_fn=contexts)
        return outputs

    return run


@contextmanager
def _again(layers: Sequence[GroupBatchNorm]) -> Iterator[None]:
    """The statistics of these clips are known already."""
    for layer in layers:
        layer.is_repeated = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_repeated = False
