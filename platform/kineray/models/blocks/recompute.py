"""Activation checkpointing: blocks store only their input and recompute the rest in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kineray.models.blocks.batch_norm import GhostBatchNorm


def checkpoint_activations(model: nn.Module) -> int:
    """Train ``model`` with less memory and a second forward pass; returns the number of its blocks.

    Blocks are the members of every ``nn.Sequential`` that contain layers (residual blocks, inception
    modules), and each ``nn.Sequential`` of single layers, such as a stem. Logits, gradients and batch-norm
    statistics are bitwise equal, the names of modules and weights do not change, and a deep copy is
    checkpointed like the original. Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv
    1604.06174.
    """
    blocks = [block for block in _blocks(model) if not _has_hooks_inside(block)]
    kinds = {type(block) for block in blocks if not isinstance(block, _Recomputed)}
    classes = {kind: _recomputed(kind) for kind in kinds}
    for block in blocks:
        block.__class__ = classes.get(type(block), type(block))
    return len(blocks)


class _Recomputed(nn.Module):
    """A mix-in before the class of a block: its activations are recomputed in the backward pass."""

    def forward(self, features: Tensor) -> Any:
        run = super().forward
        if not torch.is_grad_enabled():
            return run(features)
        return checkpoint(run, features, use_reentrant=False, context_fn=self._contexts)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _again(self)


def _recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """``kind`` with ``_Recomputed``, under the name of ``kind``. A class, so that copies are independent."""
    return type(kind.__name__, (_Recomputed, kind), {"__doc__": kind.__doc__})


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


def _has_hooks_inside(block: nn.Module) -> bool:
    """Whether a layer inside the block has a hook (mid fusion), which must not be called twice."""
    return any(module._forward_hooks for module in block.modules() if module is not block)


def _has_layers(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


@contextmanager
def _again(block: nn.Module) -> Iterator[None]:
    """Do not record batch-norm statistics, since the first forward pass of these clips has."""
    layers = [module for module in block.modules() if isinstance(module, GhostBatchNorm)]
    for layer in layers:
        layer.is_repeated = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_repeated = False
