"""In which order a forward pass uses a network's parameters, found without computing anything."""

import copy
import logging
from functools import partial

import torch
from torch import nn

from kineray.config import Experiment
from kineray.models.blocks import GhostBatchNorm

log = logging.getLogger(__name__)


def names_in_order_of_use(model: nn.Module, experiment: Experiment) -> list[str]:
    """The names of all parameters, in the order in which a forward pass reaches their modules.

    A backward pass makes their gradients in about the reverse of it, which is seldom the order of
    ``model.parameters()``: that has all of one pathway before the other. A pure function of the network.
    Parameters that the pass does not reach come first; those of a network that cannot run without values have
    the order of ``model.parameters()``. ``model``: it is not changed.
    """
    try:
        used = dict.fromkeys(_used(model, experiment))
    except Exception as error:  # whatever a plug-in's network raises
        log.debug("the order in which parameters are used is not known: %s", error)
        used = {}
    names = [name for name, _ in model.named_parameters()]
    return [*(name for name in names if name not in used), *(name for name in used if name in names)]


def _used(model: nn.Module, experiment: Experiment) -> list[str]:
    """The names of parameters, once for each call of their modules."""
    network, used = copy.deepcopy(model).to("meta").train(), list[str]()
    for name, module in network.named_modules():
        own = [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]
        if own:
            module.register_forward_pre_hook(partial(_note, used, own))
        if isinstance(module, GhostBatchNorm):  # slow on the meta device
            module.forward = torch.empty_like  # type: ignore[method-assign,assignment]
    data = experiment.data
    with torch.no_grad():
        network(torch.empty(1, data.channels, data.frames, data.crop, data.crop, device="meta"))
    return used


def _note(used: list[str], own: list[str], *_: object) -> None:
    used.extend(own)
