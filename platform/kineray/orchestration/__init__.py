"""Training and hyper-parameter search on Ray: the only package that imports Ray Train and Ray Tune."""

from kineray.orchestration.board import SweepOutcome, Trial
from kineray.orchestration.search import sweep
from kineray.orchestration.training import RunOutcome, train

__all__ = ["RunOutcome", "SweepOutcome", "Trial", "sweep", "train"]
