"""Predictions for videos, and how often they are right."""

from kineray.evaluation.checkpoints import CheckpointLike, find_checkpoint, open_checkpoint
from kineray.evaluation.evaluate import Evaluation, evaluate
from kineray.evaluation.export import Exported, check_onnx, export
from kineray.evaluation.predict import (
    answer,
    decode_views,
    predict,
    view_scores,
)
from kineray.evaluation.table import about, write_table

__all__ = [
    "CheckpointLike",
    "Evaluation",
    "Exported",
    "about",
    "answer",
    "check_onnx",
    "decode_views",
    "evaluate",
    "export",
    "find_checkpoint",
    "open_checkpoint",
    "predict",
    "view_scores",
    "write_table",
]
