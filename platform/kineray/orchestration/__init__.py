"""Training and hyper-parameter search on Ray: the only package that imports Ray Train and Ray Tune."""

from kineray.orchestration.board import SweepOutcome, Trial
from kineray.orchestration.preview import DryRun, dry_run
from kineray.orchestration.search import sweep
from kineray.orchestration.training import RunOutcome, train

__all__ = ["DryRun", "RunOutcome", "SweepOutcome", "Trial", "dry_run", "sweep", "train"]
