"""The parts that architectures are made of."""

from kineray.models.blocks.adopt import adopt, fold_frames, replace_input_conv
from kineray.models.blocks.batch_norm import (
    GhostBatchNorm,
    PopulationStatistics,
    commit_batch_norm,
    discard_batch_norm,
    set_batch_norm_group,
)
from kineray.models.blocks.conv_norm import ConvNorm, SeparableConvNorm
from kineray.models.blocks.dropout import ClipDropout, set_clip_seeds
from kineray.models.blocks.factorised import factorised, middle_channels
from kineray.models.blocks.initialise import initialise
from kineray.models.blocks.lateral import Lateral
from kineray.models.blocks.non_local import NonLocal
from kineray.models.blocks.pathway import Pathway
from kineray.models.blocks.recompute import checkpoint_activations
from kineray.models.blocks.residual import BasicBlock, Bottleneck, R2Plus1dBlock
from kineray.models.blocks.stochastic_depth import DroppableBlock, set_stochastic_depth

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ClipDropout",
    "ConvNorm",
    "DroppableBlock",
    "GhostBatchNorm",
    "Lateral",
    "NonLocal",
    "Pathway",
    "PopulationStatistics",
    "R2Plus1dBlock",
    "SeparableConvNorm",
    "adopt",
    "checkpoint_activations",
    "commit_batch_norm",
    "discard_batch_norm",
    "factorised",
    "fold_frames",
    "initialise",
    "middle_channels",
    "replace_input_conv",
    "set_batch_norm_group",
    "set_clip_seeds",
    "set_stochastic_depth",
]
