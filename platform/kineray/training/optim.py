"""Optimizers."""

from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from kineray.config import AdamConfig, OptimConfig, RpropConfig


def build_optimizer(model: nn.Module, config: OptimConfig) -> optim.Optimizer:
    """SGD, AdamW or Rprop over what is not frozen of ``model``; batch norms are not decayed, all else is.

    The learning rate starts at 0: ``set_learning_rate`` gives it at every step.
    """
    if isinstance(config, RpropConfig):
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return optim.Rprop(trainable, lr=0.0, etas=(config.shrink, config.grow))
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
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": normalisation, "weight_decay": 0.0},
    ]
    if isinstance(config, AdamConfig):
        return optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2))
    # Without momentum Nesterov's look-ahead is the gradient itself; torch refuses the combination.
    nesterov = config.nesterov and config.momentum > 0
    return optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=nesterov)


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Use ``value`` for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = value
