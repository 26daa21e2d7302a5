"""Stochastic depth: residual blocks that are skipped at random, clip by clip."""

import torch
from torch import Tensor, nn

from kineray.models.blocks.dropout import ClipDropout


class DroppableBlock(nn.Module):
    """Base of residual blocks: ``drop`` is applied to the branch before the shortcut is added."""

    def __init__(self) -> None:
        super().__init__()
        self.drop: nn.Module = nn.Identity()


class StochasticDepth(ClipDropout):
    """Drops all features of a clip together, by the clip's seed alone, as torchvision's does by row."""

    def _kept(self, seed: int, shape: torch.Size) -> Tensor:
        # The frames of a clip, which may be rows of a batch, are kept or dropped together.
        return super()._kept(seed, torch.Size([1] * len(shape))).expand(shape[0], *(-1 for _ in shape[1:]))

    def _ordinary(self, features: Tensor) -> Tensor:
        kept = torch.rand(len(features), *(1 for _ in features.shape[1:]), device=features.device) >= self.p
        return features * kept.to(features.dtype).div_(1 - self.p)


def set_stochastic_depth(model: nn.Module, rate: float) -> int:
    """Skip the branch of the last block of each pathway with probability ``rate``; returns how many can be.

    The l-th of L blocks is skipped with l / L of that (Huang et al., arXiv 1603.09382, equation 4); a branch
    that is kept is scaled such that its mean stays. Blocks in evaluation mode, as those of a frozen backbone
    are in training too, do not count.
    """
    pathways: dict[str, list[DroppableBlock]] = {}
    for name, block in model.named_modules():
        if isinstance(block, DroppableBlock) and block.training:
            pathway = name.rpartition(".")[0].rpartition(".")[0]  # without the names of stage and block
            pathways.setdefault(pathway, []).append(block)
    for blocks in pathways.values():
        for number, block in enumerate(blocks, 1):
            block.drop = StochasticDepth(rate * number / len(blocks))
    return sum(map(len, pathways.values()))
