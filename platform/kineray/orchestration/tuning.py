"""Ray Tune around the plain training loop: Optuna proposes points, a scheduler ends trials early."""

import contextlib
import io
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import ray
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.search import ConcurrencyLimiter

from kineray.config import (
    Experiment,
    SearchSpace,
    all_points,
    apply_overrides,
    loaded_plugins,
    to_yaml,
    trial_name,
)
from kineray.errors import ConfigError
from kineray.options import WorkerOptions
from kineray.orchestration.board import Board
from kineray.orchestration.messages import TrialTask
from kineray.orchestration.records import run_fingerprint
from kineray.orchestration.samplers import make_sampler, numbers_of
from kineray.orchestration.schedulers import PAUSING, make_scheduler
from kineray.orchestration.searcher import POINT, TAKEN, Point, StudySearch
from kineray.orchestration.settings import SearchSettings, values_of
from kineray.orchestration.trial import run_trial
from kineray.storage import DEFAULT_STORAGE, absolute, is_remote, join
from kineray.tracking import RunSummary, get_run, list_runs
from kineray.tracking.client import sqlite_uri
from kineray.tracking.trials import STATE

STOPPED = "it was asked to stop"

_SECONDS_BETWEEN_LOOKS = 2.0


def search(
    experiment: Experiment,
    space: SearchSpace,
    settings: SearchSettings,
    board: Board,
    options: WorkerOptions,
    is_stopped: Callable[[], bool],
) -> str:
    """Try points of ``space`` and write down on ``board`` how they end.

    What has been tried is in a SQLite file of Optuna in the sweep's folder, from which a resumed sweep goes
    on. ``is_stopped``: whether someone has asked for an end. Returns why the search stopped before all points
    were tried; empty if it did not.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _open_study(board)
    ended = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    for trial in ended:
        _restore(board, trial)
    wanted = settings.trials_of(space)
    remaining = wanted - len(ended)
    if remaining <= 0:
        return ""
    _enqueue(study, space, settings, remaining)
    gpus, cpus = _cluster()
    if settings.gpu_seconds is not None and not gpus:
        raise ConfigError(
            "the cluster has no GPU", code="no_gpus", key="budget", remedy="give a time, such as 2h"
        )
    concurrent = settings.concurrent or max(1, gpus or cpus)
    gpus_each = min(1.0, gpus / concurrent)
    ending = _Ending(settings, board, wanted, gpus_each, is_stopped)
    searcher = StudySearch(
        study,
        space,
        trials=remaining,
        name_of=partial(trial_name, experiment),
        tried=[trial_name(experiment, trial.user_attrs[POINT]) for trial in ended],
        is_finite=settings.searcher == "grid",
        known=_History(board),
        is_cut_off=lambda: bool(ending.reason),
        on_end=lambda point, error: board.ended(trial_name(experiment, point), has_crashed=error),
    )
    study.sampler = make_sampler(settings.searcher, space, experiment.seed + len(study.trials))
    # In these, more trials begin than run at the same time, which a limit of trials would prevent.
    is_pausing = settings.scheduler in PAUSING
    cpus_each = cpus / concurrent if is_pausing else 1
    task = TrialTask(
        experiment=to_yaml(experiment),
        manifest=experiment.data.manifest or "",
        folder=absolute(join(board.storage, board.parent.name)),
        run_id=board.parent.run_id,
        options=options,
        plugins=loaded_plugins(),
        cpus=max(1, cpus // concurrent),
    )
    trainable = tune.with_parameters(run_trial, task_json=task.to_json(), mailbox=board.start_listening())
    with tempfile.TemporaryDirectory(prefix="kineray-ray-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": cpus_each} | ({"gpu": gpus_each} if gpus else {})),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=remaining,
                reuse_actors=True,  # importing torch can take longer than an epoch
                search_alg=searcher if is_pausing else ConcurrencyLimiter(searcher, concurrent),
                scheduler=make_scheduler(settings.scheduler, _longest(experiment, space)),
            ),
            run_config=tune.RunConfig(
                name=board.parent.name.replace("/", "-"),
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                stop=ending,
                verbose=0,
            ),
        )
        # Tune would handle Ctrl-C itself and return as if the sweep were complete.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        # Tune prints its tables even at verbose=0, but stdout is for results.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            # A trial that continues in a new process counts its reports from 1 again.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            results = tuner.fit()
    for result in results:
        if result.error is not None:
            board.failed(trial_name(experiment, result.config), str(result.error))
    return ending.reason


def _longest(experiment: Experiment, space: SearchSpace) -> int:
    """The largest number of epochs of a trial, as it counts them."""
    longest = max(values_of(experiment, space, "train.epochs"))
    # Not checked as a whole: a trial may have other warm-up epochs, too.
    train = experiment.train.model_copy(update={"epochs": longest})
    return experiment.model_copy(update={"train": train}).run_epochs


def _cluster() -> tuple[int, int]:
    """GPUs and CPUs."""
    resources = ray.cluster_resources()
    return int(resources.get("GPU", 0)), int(resources.get("CPU", 1))


def _open_study(board: Board) -> Study:
    """The study of a sweep. It is in an SQLite file, and so a resumed sweep reads no pickle."""
    name = board.parent.name
    folder = Path(DEFAULT_STORAGE if is_remote(board.storage) else board.storage) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optuna.db").touch()  # SQLite would let only its owner write it, whatever the umask
    storage = optuna.storages.RDBStorage(sqlite_uri(folder.absolute() / "optuna.db"))
    return optuna.create_study(study_name="sweep", storage=storage, direction="maximize", load_if_exists=True)


def _restore(board: Board, trial: FrozenTrial) -> None:
    state = "finished" if trial.state is TrialState.COMPLETE else "stopped"
    point, taken = trial.user_attrs[POINT], trial.user_attrs.get(TAKEN)
    if taken is None:
        board.restore(point, state)
    else:
        board.take(get_run(board.storage, taken), point)


def _enqueue(study: Study, space: SearchSpace, settings: SearchSettings, remaining: int) -> None:
    """Let the study propose first what was cut off, and all points of a grid."""
    cut_off = [trial for trial in study.trials if trial.state is TrialState.RUNNING]
    for trial in cut_off:
        study.tell(trial.number, state=TrialState.FAIL)
    for trial in cut_off[:remaining]:
        if trial.params:
            study.enqueue_trial(trial.params)
    if settings.searcher == "grid":
        for point in all_points(space):
            study.enqueue_trial(numbers_of(space, point), skip_if_exists=True)


class _History:
    """Runs that were finished before, by the fingerprint of their experiment."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._runs: dict[str, RunSummary] = {}
        for run in list_runs(board.storage):
            is_whole = run.status == "FINISHED" and run.tags.get(STATE, "finished") == "finished"
            if is_whole and run.best is not None and not run.name.startswith(f"{board.parent.name}/"):
                self._runs.setdefault(run.fingerprint, run)

    def __call__(self, point: Point) -> tuple[str, float] | None:
        """The run of the experiment at ``point`` and its best score."""
        if not self._runs:
            return None
        experiment = apply_overrides(self._board.experiment, point)
        run = self._runs.get(run_fingerprint(experiment, self._board.manifest))
        if run is None or run.best is None:
            return None
        self._board.take(run, point)
        return run.name, run.best


class _Ending(tune.Stopper):
    """Decides when a search ends before all points are tried; ``reason``: why it has."""

    def __init__(
        self,
        settings: SearchSettings,
        board: Board,
        trials: int,
        gpus_each: float,
        is_stopped: Callable[[], bool],
    ) -> None:
        self.reason = ""
        self._settings, self._board, self._trials = settings, board, trials
        self._gpus, self._is_stopped = gpus_each, is_stopped
        self._began = self._looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial ends."""
        return False

    def stop_all(self) -> bool:
        """Whether the search ends."""
        now = time.monotonic()
        if not self.reason and now - self._looked > _SECONDS_BETWEEN_LOOKS:
            self._looked = now
            self.reason = self._look(now)
        return bool(self.reason)

    def _look(self, now: float) -> str:
        settings, board = self._settings, self._board
        if self._is_stopped():
            return STOPPED
        if settings.seconds is not None and now - self._began > settings.seconds:
            return f"its budget of {settings.budget} is used up"
        if settings.gpu_seconds is not None and board.busy_s * self._gpus > settings.gpu_seconds:
            return f"its budget of {settings.budget} is used up"
        if settings.too_many(board.number_of_failed, self._trials):
            return f"{board.number_of_failed} of {self._trials} trials failed"
        return ""

    def __getstate__(self) -> dict[str, Any]:
        """Ray Tune keeps a copy for its own way to resume, which is not used."""
        return {}
