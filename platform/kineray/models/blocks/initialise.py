"""Random initialisation of 3D ResNets."""

from torch import nn


def initialise(model: nn.Module, classifier_std: float = 0.01) -> None:
    """He et al. (arXiv 1502.01852) by fan-out for convolutions, normal(0, std) for the classifiers."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=classifier_std)
            nn.init.zeros_(module.bias)
