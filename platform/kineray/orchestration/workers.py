"""How many workers a run has: a number, or as many as there is room for within two bounds."""

import os
from dataclasses import dataclass
from typing import Any

from kineray.config import Experiment
from kineray.errors import ConfigError

WorkerCount = int | tuple[int, int]  # a number, or the least and the most


@dataclass(frozen=True)
class WorkerRange:
    """A run trains with ``least`` to ``most`` workers."""

    least: int
    most: int

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.most} worker{'s' * (self.most > 1)}"
        return f"{self.least} to {self.most} workers"


def parse_workers(text: str) -> WorkerCount:
    """``8`` or ``1:8``. Raises ValueError for anything else."""
    bounds = [int(bound) for bound in text.split(":")]
    if len(bounds) == 1:
        return bounds[0]
    least, most = bounds
    return least, most


def worker_range(workers: WorkerCount | None, experiment: Experiment) -> WorkerRange | None:
    """What ``workers``, or else KINERAY_WORKERS, asks for; None if neither says anything.

    Each worker needs a batch-norm group of its own, so there are never more workers than groups. Raises
    ConfigError for a range that is empty, and for more ``workers``, or a larger least number of them, than
    groups.
    """
    settings = experiment.train
    groups = settings.global_batch // settings.bn_group
    if workers is None:
        text = os.environ.get("KINERAY_WORKERS")
        if text is None:
            return None
        try:
            declared = _range(parse_workers(text), "KINERAY_WORKERS")
        except ValueError:
            raise _not_workers("KINERAY_WORKERS", text) from None
        return WorkerRange(min(declared.least, groups), min(declared.most, groups))
    asked = _range(workers, "workers")
    if asked.least > groups:
        raise ConfigError(
            f"train.global_batch={settings.global_batch} has {groups} batch-norm groups of "
            f"train.bn_group={settings.bn_group}, and each worker needs at least one",
            code="too_many_workers",
            key="workers",
            value=asked.least,
            remedy=f"use 1 to {groups} `workers`",
        )
    return WorkerRange(asked.least, min(asked.most, groups))


def one_for_every(gpus: int, experiment: Experiment) -> WorkerRange:
    """A worker for every GPU, or a single one; not more than there are batch-norm groups."""
    count = min(max(gpus, 1), experiment.train.global_batch // experiment.train.bn_group)
    return WorkerRange(count, count)


def _range(workers: WorkerCount, key: str) -> WorkerRange:
    least, most = (workers, workers) if isinstance(workers, int) else workers
    if not 1 <= least <= most:
        raise _not_workers(key, workers)
    return WorkerRange(least, most)


def _not_workers(key: str, value: Any) -> ConfigError:
    return ConfigError(
        "not a number of workers",
        code="out_of_range",
        key=key,
        value=value,
        remedy=f"set `{key}` to a number from 1 on, such as 8, or to the least and the most, such as 4:8",
    )
