"""What a model says of a video, and how often it is right."""

from kineray.evaluation.checkpoints import CheckpointLike, find_checkpoint, open_checkpoint
from kineray.evaluation.evaluate import Evaluation, evaluate, save_predictions
from kineray.evaluation.export import Exported, check_onnx, export
from kineray.evaluation.metrics import mean_class_accuracy, per_class_accuracy, top_k_accuracy
from kineray.evaluation.predict import (
    DEFAULT_CROPS,
    DEFAULT_TOP_K,
    DEFAULT_VIEWS,
    answer,
    decode_views,
    predict,
    video_probabilities,
    view_probabilities,
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
    "mean_class_accuracy",
    "open_checkpoint",
    "per_class_accuracy",
    "predict",
    "save_predictions",
    "top_k_accuracy",
    "video_probabilities",
    "view_probabilities",
]
