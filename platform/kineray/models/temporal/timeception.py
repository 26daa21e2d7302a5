"""Timeception: Hussein, Gavves, Smeulders, arXiv 1812.01289, section 3.3 and figure 3.

A layer has ``groups`` groups of channels, which are convolved separately; w = channels / (4 groups):

    in every group     1x1x1 conv w
                       1x1x1 conv w, depthwise conv along time (kernel 3)
                       1x1x1 conv w, depthwise conv along time (kernel 5, or kernel 3 with dilation 2)
                       1x1x1 conv w, depthwise conv along time (kernel 7, or kernel 3 with dilation 3)
                       1x1x1 conv w, max pool along time (kernel 2, stride 1)
    of all groups      concatenate (5/4 of the channels), BN, ReLU, shuffle the channels
                       max pool along time (kernel 2, stride 2)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.errors import ConfigError
from kineray.models.blocks import GhostBatchNorm
from kineray.models.temporal.base import Temporal, kaiming_init_

BRANCHES = 5
_SCALES = ((3, 1), (5, 1), (7, 1))  # kernel and dilation of the convolutions along time
_DILATED_SCALES = ((3, 1), (3, 2), (3, 3))


class Timeception(Temporal):
    """``layers`` Timeception layers, then the mean over time and space.

    Raises ConfigError if ``groups`` does not divide the backbone's channels into four or more each.
    """

    def __init__(self, channels: int, layers: int, groups: int, *, dilated: bool) -> None:
        if channels % groups or channels < 4 * groups:
            raise ConfigError(
                f"does not divide the {channels} channels of the backbone into four or more each",
                code="out_of_range",
                key="model.temporal.groups",
                value=groups,
            )
        scales = _DILATED_SCALES if dilated else _SCALES
        stack: list[TimeceptionLayer] = []
        for _ in range(layers):
            stack.append(TimeceptionLayer(channels, groups, scales))
            channels = stack[-1].out_channels
        super().__init__(channels)
        self.layers = nn.Sequential(*stack)
        kaiming_init_(self.layers)

    def forward(self, maps_btchw: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, about 1.25^layers C]."""
        features_bcthw: Tensor = self.layers(maps_btchw.transpose(1, 2))
        return features_bcthw.mean((2, 3, 4))


class TimeceptionLayer(nn.Module):
    """One layer: [B, C, T, H, W] -> [B, ``out_channels``, T / 2, H, W]."""

    def __init__(self, channels: int, groups: int, scales: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.groups, self.width = groups, channels // (4 * groups)
        self.out_channels = groups * BRANCHES * self.width
        # One convolution does the 1x1x1 ones of all branches; its channels are ordered by group, then branch.
        self.reduce = nn.Conv3d(channels, self.out_channels, 1, groups=groups, bias=False)
        self.scales = nn.ModuleList(
            nn.Conv3d(
                groups * self.width,
                groups * self.width,
                (kernel, 1, 1),
                padding=(dilation * (kernel // 2), 0, 0),
                dilation=(dilation, 1, 1),
                groups=groups * self.width,
                bias=False,
            )
            for kernel, dilation in scales
        )
        self.norm = GhostBatchNorm(self.out_channels)

    def forward(self, features_bcthw: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B, ``out_channels``, T / 2, H, W]."""
        reduced = torch.unflatten(self.reduce(features_bcthw), 1, (self.groups, BRANCHES, self.width))
        plain, *scaled, pooled = (branch.flatten(1, 2) for branch in reduced.unbind(2))
        branches = [
            plain,
            *(conv(branch) for conv, branch in zip(self.scales, scaled, strict=True)),
            F.max_pool3d(pooled, (2, 1, 1), stride=1, padding=(1, 0, 0))[:, :, 1:],
        ]
        by_group = torch.stack(
            [torch.unflatten(branch, 1, (self.groups, self.width)) for branch in branches], dim=2
        )
        features = F.relu(self.norm(by_group.flatten(1, 3)))
        shuffled = torch.unflatten(features, 1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        return F.max_pool3d(shuffled, (2, 1, 1))
