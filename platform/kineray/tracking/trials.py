"""The trials of a sweep, as their records tell of them."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, overload

from kineray.config import Experiment, from_yaml
from kineray.storage import join, read_bytes
from kineray.tracking.runs import RunSummary, list_runs

EXPERIMENT = "experiment.yaml"  # in a run's folder

# Tags of trials: how one ended, its last validated epoch, and its searched values as JSON.
STATE = "trial.state"
EPOCH = "trial.epoch"
PARAMS = "trial.params"
# Tags of sweeps: the runs that were taken from history, [[name, params], ...], and why one ended early.
TAKEN = "sweep.taken"
ENDED = "sweep.ended"
# Tags of sweeps that run a trial again: its name, and the overrides with which they do.
RERUN_OF = "sweep.rerun_of"
RERUN_CHANGES = "sweep.rerun_changes"


@dataclass(frozen=True)
class Trial:
    """One point of a search space: the name of its run, the values tried, and how far it got.

    ``params``: the searched values by dotted key. ``state``: ``running``, ``finished``, ``stopped`` (by the
    scheduler), ``diverged``, ``failed`` or ``interrupted``. ``epoch``: the last validated one. ``score``: the
    best validation score so far (0 to 1), None before the first validation.
    """

    name: str
    params: dict[str, Any]
    state: str
    epoch: int
    score: float | None
    storage: str = field(default="", repr=False)

    @property
    def experiment(self) -> Experiment:
        """The experiment of the trial, which ``kineray.train`` takes."""
        path = join(self.storage, self.name, EXPERIMENT)
        return from_yaml(read_bytes(path).decode(), path)


class Trials(list[Trial]):
    """Trials, best first and those without a score last; equal ones by name."""

    def __init__(self, trials: "list[Trial]") -> None:
        super().__init__(sorted(trials, key=lambda t: (1.0 if t.score is None else -t.score, t.name)))

    @overload
    def best(self) -> Trial | None: ...
    @overload
    def best(self, n: int) -> list[Trial]: ...
    def best(self, n: int | None = None) -> Trial | list[Trial] | None:
        """The trial with the highest score, None if none was validated; with ``n`` the best ``n``."""
        scored = [trial for trial in self if trial.score is not None]
        return next(iter(scored), None) if n is None else scored[:n]

    def rows(self) -> list[dict[str, Any]]:
        """One flat row per trial: its best score, epoch, state, the searched keys, and the run's name."""
        return [
            {"best": t.score, "epoch": t.epoch, "state": t.state} | t.params | {"run": t.name} for t in self
        ]


def trials_of(storage: str, sweep: str, *, is_alive: bool = False) -> Trials:
    """The trials of a sweep. ``is_alive``: whether a process works on those that are running."""
    runs = list_runs(storage)
    found = [_trial(run, storage, is_alive) for run in runs if run.parent == sweep and PARAMS in run.tags]
    known = {run.name: run for run in runs}
    for name, params in json.loads(known[sweep].tags.get(TAKEN, "[]")) if sweep in known else ():
        if name in known:
            found.append(dataclasses.replace(_trial(known[name], storage, is_alive), params=params))
    return Trials(found)


def _trial(run: RunSummary, storage: str, is_alive: bool) -> Trial:
    state = run.tags.get(STATE, "running" if run.status == "RUNNING" else "finished")
    return Trial(
        run.name,
        json.loads(run.tags.get(PARAMS, "{}")),
        "interrupted" if state == "running" and not is_alive else state,
        int(run.tags.get(EPOCH, "0")),
        run.best,
        storage,
    )
