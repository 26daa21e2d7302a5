"""The recipe, the step, the loop and the checkpoint: plain PyTorch.

The names below are imported when they are first used: a driver that only starts a run needs no torch.
"""

from typing import TYPE_CHECKING

from kineray.lazy import lazy_names

_WHERE = {
    "Checkpoint": "checkpoint",
    "CheckpointDelayedEvent": "events",
    "CheckpointEvent": "events",
    "CheckpointStore": "checkpoint",
    "ContinuedEvent": "events",
    "EndedEvent": "events",
    "Event": "events",
    "ExperimentPlan": "plan",
    "FeaturesEvent": "events",
    "Goodput": "events",
    "GoodputMeter": "goodput",
    "InitialisedEvent": "events",
    "ReplacedEvent": "events",
    "RunShape": "shape",
    "SnapshotEvent": "events",
    "Snapshots": "snapshots",
    "Step": "plan",
    "StartedEvent": "events",
    "StepEvent": "events",
    "StepPlan": "plan",
    "StragglerEvent": "events",
    "TrainResult": "events",
    "ValidationEvent": "events",
    "WaitingEvent": "events",
    "absolute_inits": "initial",
    "build_optimizer": "optim",
    "EventLines": "lines",
    "check_micro_batch": "plan",
    "goodput_line": "goodput",
    "init_hashes": "initial",
    "learning_rate": "schedule",
    "line_of": "lines",
    "load_checkpoint": "checkpoint",
    "plan_of": "plan",
    "shape_of": "shape",
    "train": "loop",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.training.checkpoint import Checkpoint as Checkpoint
    from kineray.training.checkpoint import CheckpointStore as CheckpointStore
    from kineray.training.checkpoint import load_checkpoint as load_checkpoint
    from kineray.training.events import CheckpointDelayedEvent as CheckpointDelayedEvent
    from kineray.training.events import CheckpointEvent as CheckpointEvent
    from kineray.training.events import ContinuedEvent as ContinuedEvent
    from kineray.training.events import EndedEvent as EndedEvent
    from kineray.training.events import Event as Event
    from kineray.training.events import FeaturesEvent as FeaturesEvent
    from kineray.training.events import Goodput as Goodput
    from kineray.training.events import InitialisedEvent as InitialisedEvent
    from kineray.training.events import ReplacedEvent as ReplacedEvent
    from kineray.training.events import SnapshotEvent as SnapshotEvent
    from kineray.training.events import StartedEvent as StartedEvent
    from kineray.training.events import StepEvent as StepEvent
    from kineray.training.events import StragglerEvent as StragglerEvent
    from kineray.training.events import TrainResult as TrainResult
    from kineray.training.events import ValidationEvent as ValidationEvent
    from kineray.training.events import WaitingEvent as WaitingEvent
    from kineray.training.goodput import GoodputMeter as GoodputMeter
    from kineray.training.goodput import goodput_line as goodput_line
    from kineray.training.initial import absolute_inits as absolute_inits
    from kineray.training.initial import init_hashes as init_hashes
    from kineray.training.lines import EventLines as EventLines
    from kineray.training.lines import line_of as line_of
    from kineray.training.loop import train as train
    from kineray.training.optim import build_optimizer as build_optimizer
    from kineray.training.plan import ExperimentPlan as ExperimentPlan
    from kineray.training.plan import Step as Step
    from kineray.training.plan import StepPlan as StepPlan
    from kineray.training.plan import check_micro_batch as check_micro_batch
    from kineray.training.plan import plan_of as plan_of
    from kineray.training.schedule import learning_rate as learning_rate
    from kineray.training.shape import RunShape as RunShape
    from kineray.training.shape import shape_of as shape_of
    from kineray.training.snapshots import Snapshots as Snapshots

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
