"""Stochastic depth."""

from kineray.config.fields import Probability
from kineray.config.recipe.base import RecipePiece


class StochasticDepthConfig(
    RecipePiece, type="stochastic_depth", builds="kineray.training.recipe.stochastic_depth.StochasticDepth"
):
    """Clips skip residual blocks at random in training (Huang et al., arXiv 1603.09382).

    ``rate``: the probability for the last block; it rises linearly from the first block on, in each pathway
    by itself. For SlowFast, Slow-only, C2D, I3D, R(2+1)D, P3D and two-stream networks of them.
    """

    rate: Probability = 0.2
