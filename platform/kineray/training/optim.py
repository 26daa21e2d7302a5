"""The optimizer of a model's parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn, optim
from torch.nn.modules.batchnorm import _BatchNorm

from kineray.config import OptimSection


class Factors(NamedTuple):
    """What learning rate and weight decay of a parameter are multiplied by."""

    lr: float = 1.0
    weight_decay: float = 1.0

    def times(self, other: "Factors") -> "Factors":
        """Both one after the other."""
        return Factors(self.lr * other.lr, self.weight_decay * other.weight_decay)


def build_optimizer(
    model: nn.Module, config: OptimSection, factors: Mapping[str, Factors] = {}
) -> optim.Optimizer:
    """The optimizer of the parameters of ``model`` that are not frozen.

    Weight decay applies to all of them except those of batch norms. The learning rate starts at 0 and is set
    at every step by ``set_learning_rate``. ``factors``: by the names of parameters (``Recipe.factors``).
    """
    normalisation = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _BatchNorm)
        for parameter in module.parameters(recurse=False)
    }
    groups: dict[tuple[bool, Factors], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor, is_decayed = factors.get(name, Factors()), id(parameter) not in normalisation
        decay = config.decay() * factor.weight_decay if is_decayed else 0.0
        group = {"params": [], "weight_decay": decay, "lr_factor": factor.lr}
        groups.setdefault((is_decayed, factor), group)["params"].append(parameter)
    return config.build(list(groups.values()))


def set_learning_rate(optimizer: optim.Optimizer, value: float) -> None:
    """Use ``value``, times the factor of its group, for every parameter from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = value * group["lr_factor"]
