"""Video classifiers: one file for each architecture."""

from kineray.models.blocks import (
    GroupBatchNorm3d,
    commit_batch_norm,
    discard_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
)
from kineray.models.presets import MODEL_PRESETS, ModelPreset, build_model, create_model, list_models
from kineray.models.slowfast import SlowFast, slow_indices

__all__ = [
    "MODEL_PRESETS",
    "GroupBatchNorm3d",
    "ModelPreset",
    "SlowFast",
    "build_model",
    "commit_batch_norm",
    "create_model",
    "discard_batch_norm",
    "list_models",
    "set_batch_norm_group",
    "set_clip_seeds",
    "slow_indices",
]
