"""The optimizer of a model's parameters."""

from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from kineray.config import OptimSection


def build_optimizer(model: nn.Module, config: OptimSection) -> optim.Optimizer:
    """The optimizer of the parameters of ``model`` that are not frozen.

    Weight decay applies to all of them except those of batch norms. The learning rate starts at 0 and is set
    at every step by ``set_learning_rate``.
    """
    normalisation = [
        parameter
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad
    ]
    known = {id(parameter) for parameter in normalisation}
    decayed = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": decayed, "weight_decay": config.decay()},
        {"params": normalisation, "weight_decay": 0.0},
    ]
    return config.build([group for group in groups if group["params"]])


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Use ``value`` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = value
