"""The recipe, the step, the loop and the checkpoint: plain PyTorch."""

from kineray.training.checkpoint import Checkpoint, CheckpointStore, load_checkpoint
from kineray.training.events import (
    CheckpointEvent,
    Event,
    InitialisedEvent,
    ReplacedEvent,
    StepEvent,
    ValidationEvent,
)
from kineray.training.initial import absolute_inits, init_hashes
from kineray.training.loop import TrainResult, check_micro_batch, train
from kineray.training.optim import build_optimizer
from kineray.training.plan import ExperimentPlan, Step, StepPlan
from kineray.training.schedule import learning_rate

__all__ = [
    "Checkpoint",
    "CheckpointEvent",
    "CheckpointStore",
    "Event",
    "ExperimentPlan",
    "InitialisedEvent",
    "ReplacedEvent",
    "Step",
    "StepEvent",
    "StepPlan",
    "TrainResult",
    "ValidationEvent",
    "absolute_inits",
    "build_optimizer",
    "check_micro_batch",
    "init_hashes",
    "learning_rate",
    "load_checkpoint",
    "train",
]
