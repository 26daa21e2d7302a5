"""``kineray.sweep`` and ``kineray.attach``: sweeps in the background, and the handles of them."""

import dataclasses
import logging
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from kineray.config import Experiment, SearchSpace
from kineray.durations import duration
from kineray.errors import ConfigError, KinerayError
from kineray.options import WorkerOptions
from kineray.orchestration.board import SweepOutcome
from kineray.orchestration.life import LIFE, read_life
from kineray.orchestration.messages import SweepTask
from kineray.orchestration.records import claim
from kineray.orchestration.search import KIND, STOP, TASK, CheckedSweep, check_sweep
from kineray.orchestration.settings import SearchSettings
from kineray.storage import (
    DEFAULT_STORAGE,
    absolute,
    delete_file,
    exists,
    is_remote,
    join,
    read_bytes,
    runs_folder,
    write_bytes,
)
from kineray.tracking import get_run
from kineray.tracking.trials import ENDED, Trial, Trials, trials_of

if TYPE_CHECKING:
    from pandas import DataFrame

log = logging.getLogger("kineray.progress")

_POLL_S = 1.0


def sweep(
    experiment: Experiment,
    space: SearchSpace,
    *,
    trials: int | None = None,
    searcher: str = "tpe",
    scheduler: str = "asha",
    budget: str | None = None,
    max_failed: float = 0.25,
    concurrent: int | None = None,
    overrides: Iterable[str] | Mapping[str, object] = (),
    storage: str | None = None,
    name: str | None = None,
    options: WorkerOptions = WorkerOptions(),
) -> "Sweep":
    """Search ``space`` around ``experiment`` in the background, and return a handle of the sweep.

    ``space`` maps dotted keys to ``Choice``, ``Integers``, ``Uniform`` or ``LogUniform``; it is checked
    against the experiment before anything starts. A ``Choice`` may give each value a space of its own, which
    is searched where the value is chosen; the types of variants have one unless you give another. Every trial
    trains in one process and is an MLflow child run named by its dotted keys. If the storage has a finished
    run of a trial's experiment, that is taken and not run again.

    ``trials``: number of points to try (default: 6, or all points of a grid). ``searcher``: ``tpe``,
    ``random``, ``grid``, ``cmaes``, ``gp`` or ``evolution``. ``scheduler``, which ends trials early:
    ``asha``, ``halving``, ``hyperband``, ``median`` or ``none``. ``budget``: a time (``2h``) or GPU hours
    (``40gpuh``) after which the sweep stops. ``max_failed``: it also stops if more than this share of the
    trials have failed. ``concurrent``: number of trials at the same time (default: one for every GPU, or CPU,
    of the cluster). ``overrides``: changes to the experiment that all trials share. ``storage``: folder or
    s3:// prefix of all runs (default: KINERAY_STORAGE, or ``./runs``). ``name``: of the sweep (default: the
    experiment's with ``-sweep``, numbered). ``options``: how the process of a trial does its work; with
    ``cache_features`` the first trials on each host compute the features together, once for each set of
    values that these depend on, and all others read them.

    One process with the same seed gives the same points and scores; with several trials at a time, the order
    in which they end decides what the searcher knows when it proposes the next point.

    Raises ConfigError for a space that does not fit the experiment.
    """
    checked = check_sweep(
        experiment,
        space,
        settings=SearchSettings(trials, searcher, scheduler, concurrent, budget, max_failed),
        overrides=overrides,
        storage=storage,
        name=name,
        options=options,
    )
    return start_sweep(checked, name)


def start_sweep(checked: CheckedSweep, name: str | None) -> "Sweep":
    """Start a sweep in the background. Raises ConfigError for a name that is taken."""
    name = claim(checked.experiment, checked.storage, name, KIND)
    started = Sweep(name, absolute(checked.storage))
    started._start(checked.task(), "new")
    return started


def attach(name: str, *, storage: str | None = None) -> "Sweep":
    """The handle of a sweep that was started before, here or on another machine with the same storage.

    Raises ConfigError if there is none of this name.
    """
    storage = absolute(runs_folder(storage))
    if not exists(join(storage, name, TASK)):
        raise ConfigError(
            f"no sweep of this name in {storage}",
            code="unknown_run",
            key="name",
            value=name,
            remedy="`kineray runs` lists what there is",
        )
    return Sweep(name, storage)


@dataclass(frozen=True)
class Sweep:
    """A sweep, which goes on whether or not there is a handle of it.

    As the last value of a notebook's cell it is shown as a table and curves, until the sweep ends.
    """

    name: str
    storage: str

    @property
    def status(self) -> str:
        """``starting``, ``running``, ``ended``, ``failed`` or ``interrupted``, which ``resume`` continues."""
        life = read_life(self._folder)
        if life is None:
            return "starting"
        if life.is_alive:
            return "running"
        return "interrupted" if not life.is_over else "failed" if life.problem else "ended"

    @property
    def trials(self) -> Trials:
        """All trials until now, best first and those without a score last."""
        return trials_of(self.storage, self.name, is_alive=self.status == "running")

    @overload
    def best(self) -> Trial | None: ...
    @overload
    def best(self, n: int) -> list[Trial]: ...
    def best(self, n: int | None = None) -> Trial | list[Trial] | None:
        """The trial with the highest score, None before the first validation; with ``n`` the best ``n``."""
        return self.trials.best() if n is None else self.trials.best(n)

    def frame(self) -> "DataFrame":
        """A pandas DataFrame with a row for each trial: run, state, epoch, best, and the searched keys."""
        import pandas as pd

        rows = self.trials.rows()
        keys = dict.fromkeys(key for row in rows for key in row if "." in key)
        return pd.DataFrame(rows, columns=["run", "state", "epoch", "best", *keys])

    def wait(self, timeout: float | None = None) -> SweepOutcome:
        """Wait until the sweep ends, and log its progress; returns its trials.

        Raises what ended it (KinerayError), and KinerayError ``timeout`` after ``timeout`` seconds and
        ``interrupted`` if its process is gone.
        """
        began, said = time.monotonic(), ""
        while (status := self.status) in {"starting", "running"}:
            line = self.progress()
            if line != said:
                log.info("%s", line)
                said = line
            if timeout is not None and time.monotonic() - began > timeout:
                raise KinerayError(f"still {status} after {duration(timeout)}", code="timeout", key=self.name)
            if status == "starting":
                self._check_start()
            time.sleep(_POLL_S)
        life = read_life(self._folder)
        error = life.error() if life is not None else None
        if error is not None:
            raise error
        if status == "interrupted":
            raise KinerayError(
                "its process is gone",
                code="interrupted",
                key=self.name,
                remedy=f"continue it with kineray.attach('{self.name}').resume()",
            )
        parent = get_run(self.storage, self.name)
        return SweepOutcome(self.name, parent.score or "", self.trials, parent.tags.get(ENDED, ""))

    def progress(self) -> str:
        """How far the sweep is, in one line."""
        status = self.status
        if status == "starting":
            return f"{self.name}: {status}"
        trials, wanted = self.trials, self._task().number_of_trials
        running = sum(trial.state == "running" for trial in trials)
        best = next((f", best {trial.score:.4f}" for trial in trials if trial.score is not None), "")
        ended = f"{len(trials) - running} of {wanted} trials ended"
        return f"{self.name}: {status}, {ended}, {running} running{best}"

    def stop(self) -> None:
        """Ask the sweep to stop: trials that are running are cut off, and ``resume`` continues them."""
        write_bytes(join(self._folder, STOP), b"")

    def resume(self, *, trials: int | None = None) -> "Sweep":
        """Continue a sweep that was stopped, interrupted or ended, with a total of ``trials`` trials.

        Trials that ended are kept. Raises ConfigError if it is running.
        """
        if self.status == "running":
            raise ConfigError(
                "the sweep is running", code="already_running", key=self.name, remedy="stop it first"
            )
        task = self._task()
        if trials is not None:
            task = dataclasses.replace(task, settings=dataclasses.replace(task.settings, trials=trials))
        self._start(task, "resume")
        return self

    def _ipython_display_(self) -> None:
        """What a notebook shows for a sweep."""
        from kineray.orchestration.sweep_view import show_live

        show_live(self)

    @property
    def _folder(self) -> str:
        return join(self.storage, self.name)

    @property
    def _log(self) -> Path:
        """What the process prints."""
        folder = Path(DEFAULT_STORAGE).absolute() if is_remote(self.storage) else Path(self.storage)
        return folder / self.name / "sweep.log"

    def _task(self) -> SweepTask:
        return SweepTask.from_json(read_bytes(join(self._folder, TASK)).decode())

    def _start(self, task: SweepTask, mode: str) -> None:
        """Start the process of the sweep, which outlives this one."""
        write_bytes(join(self._folder, TASK), task.to_json().encode())
        for file in (LIFE, STOP):
            if exists(join(self._folder, file)):
                delete_file(join(self._folder, file))
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as output:
            _PROCESSES[self._folder] = subprocess.Popen(
                [sys.executable, "-m", "kineray.orchestration.sweep_process", self._folder, self.name, mode],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _check_start(self) -> None:
        """Raise KinerayError if the process ended before its first sign of life."""
        process = _PROCESSES.get(self._folder)
        if process is not None and process.poll() is not None and read_life(self._folder) is None:
            lines = self._log.read_text(errors="replace").splitlines()
            raise KinerayError(
                f"its process did not start: {lines[-1] if lines else 'it printed nothing'}",
                code="not_started",
                key=self.name,
                remedy=f"see {self._log}",
            )


_PROCESSES: dict[str, "subprocess.Popen[bytes]"] = {}  # those that this process has started
