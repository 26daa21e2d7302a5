"""Training and searching on Ray: the only package that imports Ray Train and Ray Tune."""

from kineray.orchestration.sweep import SweepOutcome, Trial, sweep
from kineray.orchestration.train import Launch, RunOutcome, train

__all__ = ["Launch", "RunOutcome", "SweepOutcome", "Trial", "sweep", "train"]
