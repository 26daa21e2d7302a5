"""The base of the temporal subsystems, and what several of them use."""

from torch import Tensor, nn


class Temporal(nn.Module):
    """Feature maps of every frame, [B, T, C, H, W] -> features of the clip, [B, F].

    ``features``: their number, F. ``keeps_frames``: whether it returns features of every frame instead,
    [B, T, F]; the head then averages the frames' logits.
    """

    keeps_frames = False

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


def pool_space(maps_btchw: Tensor) -> Tensor:
    """Features of every frame: the mean over its map, [B, T, C, H, W] -> [B, T, C]."""
    return maps_btchw.mean((3, 4))


def kaiming_init_(module: nn.Module) -> None:
    """He et al. (arXiv 1502.01852) for the convolutions and linear layers inside ``module``; biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
