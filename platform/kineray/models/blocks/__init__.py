"""The parts that architectures are made of."""

from kineray.models.blocks.batch_norm import (
    GroupBatchNorm3d,
    commit_batch_norm,
    discard_batch_norm,
    set_batch_norm_group,
)
from kineray.models.blocks.bottleneck import Bottleneck
from kineray.models.blocks.dropout import ClipDropout, set_clip_seeds
from kineray.models.blocks.lateral import Lateral
from kineray.models.blocks.non_local import NonLocal

__all__ = [
    "Bottleneck",
    "ClipDropout",
    "GroupBatchNorm3d",
    "Lateral",
    "NonLocal",
    "commit_batch_norm",
    "discard_batch_norm",
    "set_batch_norm_group",
    "set_clip_seeds",
]
