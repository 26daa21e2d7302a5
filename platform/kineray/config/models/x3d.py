"""X3D networks."""

from kineray.config.fields import PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection


class X3DConfig(ModelSection, type="x3d", builds="kineray.models.x3d.X3D"):
    """X3D (Feichtenhofer, arXiv 2004.04730); the defaults are X3D-M.

    ``width``: channels of the stem and of res2; every further stage has twice as many as the one before.
    ``head_pool``: side of the head's pooling window on the last feature map (training crop / 32, rounded
    up); a larger map is classified at every position and the probabilities are averaged.
    """

    stage_blocks: PositiveInts4 = (3, 5, 11, 7)
    width: PositiveInt = 24
    head_pool: PositiveInt = 7
    dropout: Probability = 0.5
