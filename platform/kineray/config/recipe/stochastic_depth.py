"""Stochastic depth."""

from kineray.config.fields import Probability
from kineray.config.recipe.base import RecipePiece


class StochasticDepthConfig(
    RecipePiece, type="stochastic_depth", builds="kineray.training.recipe.stochastic_depth.StochasticDepth"
):
    """Clips skip residual blocks at random in training (Huang et al., arXiv 1603.09382).

    ``rate``: the probability for the last block; it rises linearly from the first block on, in each pathway
    by itself. For SlowFast, Slow-only, C2D, I3D, R(2+1)D, P3D, X3D, the 18-layer video ResNets,
    spatio-temporal ResNets, ResNet, ResNeXt and MobileNet-v2 on frames, and two-stream networks of them. The
    connections of a spatio-temporal ResNet into a branch are dropped with it; the frames of a clip skip the
    same blocks.
    """

    rate: Probability = 0.2
