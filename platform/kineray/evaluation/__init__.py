"""Predictions for videos, and how often they are right."""

from kineray.evaluation.checkpoints import CheckpointLike, find_checkpoint, open_checkpoint
from kineray.evaluation.evaluate import Evaluation, evaluate, save_predictions
from kineray.evaluation.export import Exported, check_onnx, export
from kineray.evaluation.predict import (
    DEFAULT_CROPS,
    DEFAULT_TOP_K,
    DEFAULT_VIEWS,
    answer,
    decode_views,
    predict,
    view_scores,
)

__all__ = [
    "DEFAULT_CROPS",
    "DEFAULT_TOP_K",
    "DEFAULT_VIEWS",
    "CheckpointLike",
    "Evaluation",
    "Exported",
    "answer",
    "check_onnx",
    "decode_views",
    "evaluate",
    "export",
    "find_checkpoint",
    "open_checkpoint",
    "predict",
    "save_predictions",
    "view_scores",
]
