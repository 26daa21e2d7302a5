"""Video Swin transformers."""

from kineray.config.fields import PositiveInt, PositiveInts4, Probability
from kineray.config.models.base import ModelSection


class Swin3DConfig(ModelSection, type="swin3d", builds="kineray.models.swin3d.Swin3D"):
    """Video Swin (Liu et al., arXiv 2106.13230), as torchvision has it; the defaults are Swin-T.

    ``width``: channels of the first stage, which double from stage to stage; ``attention_heads``: heads of
    the first stage, which double too. ``stage_blocks``: number of blocks of each stage.
    """

    width: PositiveInt = 96
    attention_heads: PositiveInt = 3
    stage_blocks: PositiveInts4 = (2, 2, 6, 2)
    dropout: Probability = 0.0
