"""Training and hyper-parameter search on Ray: the only package that imports Ray Train and Ray Tune."""

from kineray.orchestration.board import SweepOutcome
from kineray.orchestration.preview import DryRun, dry_run
from kineray.orchestration.sweeps import Sweep, attach, sweep
from kineray.orchestration.training import RunOutcome, train
from kineray.tracking.trials import Trial, Trials

__all__ = [
    "DryRun",
    "RunOutcome",
    "Sweep",
    "SweepOutcome",
    "Trial",
    "Trials",
    "attach",
    "dry_run",
    "sweep",
    "train",
]
