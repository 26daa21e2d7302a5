"""A model of your own: a ResNet whose blocks shift channels in time (TSM: Lin, Gan, Han, arXiv 1811.08383).

    kineray train experiments/slowfast.py --plugin examples/tsm.py model.type=tsm model.shift=0.25 --workers 2

The class with a ``type`` is all that kineray needs: the model trains, resumes, sweeps, evaluates, exports,
promotes and serves like any other.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

import kineray


class TsmConfig(kineray.ModelSection, type="tsm"):
    """``shift``: share of the channels that move by one frame, half of them each way."""

    shift: float = 0.125
    width: int = 16
    dropout: float = 0.5

    def build(self, heads: Mapping[str, int], in_channels: int = 3) -> nn.Module:
        """The network; ``heads``: number of classes of each head."""
        return Tsm(self, heads, in_channels)


class Tsm(nn.Module):
    """A stem and three residual blocks, each behind a shift."""

    def __init__(self, config: TsmConfig, heads: Mapping[str, int], in_channels: int) -> None:
        super().__init__()
        self.shift = config.shift
        self.stem = nn.Conv2d(in_channels, config.width, 7, stride=4, padding=3, bias=False)
        self.blocks = nn.ModuleList(BasicBlock(config.width, config.width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleDict({head: nn.Linear(config.width, n) for head, n in heads.items()})

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, C, T, H, W] -> {head: logits [B, classes]}."""
        of_clips = (-1, clips_bcthw.shape[2])
        maps_nchw = self.stem(clips_bcthw.transpose(1, 2).flatten(0, 1))  # N = B x T
        for block in self.blocks:
            shifted_btchw = shift_channels(maps_nchw.unflatten(0, of_clips), self.shift)
            maps_nchw = block(shifted_btchw.flatten(0, 1))
        features_bc = self.dropout(maps_nchw.unflatten(0, of_clips).mean((1, 3, 4)))
        return {head: classify(features_bc) for head, classify in self.heads.items()}


def shift_channels(maps_btchw: Tensor, share: float) -> Tensor:
    """Half of ``share`` of the channels of every frame come from the next frame, half from the one before."""
    moved = int(maps_btchw.shape[2] * share / 2)
    later, earlier, still = maps_btchw.tensor_split((moved, 2 * moved), dim=2)
    none = torch.zeros_like(later[:, :1])
    later = torch.cat([later[:, 1:], none], dim=1)
    earlier = torch.cat([none, earlier[:, :-1]], dim=1)
    return torch.cat([later, earlier, still], dim=2)
