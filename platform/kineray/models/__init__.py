"""Video classifiers: one file per architecture."""

from kineray.models.blocks import (
    GhostBatchNorm,
    PopulationStatistics,
    checkpoint_activations,
    commit_batch_norm,
    discard_batch_norm,
    set_batch_norm_group,
    set_clip_seeds,
    set_stochastic_depth,
)
from kineray.models.frame import FrameNet, frozen_at_random_note
from kineray.models.heads import AUXILIARY, use_sigmoid
from kineray.models.preset import ModelPreset
from kineray.models.registry import build_model, create_model, find_preset, list_models, model_presets
from kineray.models.slowfast import SlowFast, slow_indices
from kineray.models.summary import Cost, Part, Summary, summarise
from kineray.models.weights import Loaded, load_weights

__all__ = [
    "AUXILIARY",
    "Cost",
    "FrameNet",
    "GhostBatchNorm",
    "Loaded",
    "ModelPreset",
    "Part",
    "PopulationStatistics",
    "SlowFast",
    "Summary",
    "build_model",
    "checkpoint_activations",
    "commit_batch_norm",
    "create_model",
    "discard_batch_norm",
    "find_preset",
    "frozen_at_random_note",
    "list_models",
    "load_weights",
    "model_presets",
    "set_batch_norm_group",
    "set_clip_seeds",
    "set_stochastic_depth",
    "slow_indices",
    "summarise",
    "use_sigmoid",
]
