"""Hyper-parameter search: Ray Tune with Optuna's TPE and ASHA over the same training loop."""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineray.cluster import connect, driver_node
from kineray.config import (
    Choice,
    Experiment,
    LogUniform,
    SearchSpace,
    apply_overrides,
    check_space,
    fingerprint,
    from_yaml,
    to_yaml,
    trial_name,
)
from kineray.data import Manifest, load_manifest
from kineray.data.storage import absolute, is_remote, join
from kineray.errors import ConfigError, KinerayError, NonFiniteLossError
from kineray.orchestration.training import open_manifest, record
from kineray.tracking import Run, get_run, list_runs, resume_run, run_exists, start_run, unused_name
from kineray.training import Event, ValidationEvent


@dataclass(frozen=True)
class Trial:
    """One point of the search space: its run's name, the values tried, and how far it came.

    ``state`` is ``finished``, ``stopped`` (by ASHA), ``diverged`` or ``interrupted``. ``score`` is the
    best validation score so far, None before the first validation.
    """

    name: str
    params: dict[str, Any]
    state: str
    epoch: int
    score: float | None


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep's name and its trials, best first."""

    name: str
    trials: list[Trial]

    @property
    def best(self) -> Trial | None:
        """The trial with the highest score, None when no trial was validated."""
        return next((trial for trial in self.trials if trial.score is not None), None)

    def rows(self) -> list[dict[str, Any]]:
        """One flat row a trial: score, epoch, state, the searched keys, and the run's name."""
        return [
            {"score": t.score, "epoch": t.epoch, "state": t.state} | t.params | {"run": t.name}
            for t in self.trials
        ]


def sweep(
    experiment: Experiment,
    space: SearchSpace,
    *,
    trials: int = 6,
    overrides: Iterable[str] | Mapping[str, object] = (),
    storage: str = "./runs",
    name: str | None = None,
    resume: bool = False,
    concurrent: int | None = None,
    on_event: Callable[[str, Event], None] | None = None,
    command: Iterable[str] = (),
) -> SweepOutcome:
    """Search ``space`` around ``experiment`` with ``trials`` trials and return them, best first.

    ``space`` maps dotted keys to ``Choice``, ``Uniform`` or ``LogUniform``; it is checked against the
    experiment before any trial starts. Every trial trains in one process (on one GPU where there
    are GPUs) and is an MLflow child run named by its dotted keys. ``concurrent``: trials at once
    (default: as many as the cluster's GPUs, or CPUs, hold). ``resume`` continues the sweep ``name``, or
    the newest one of this experiment and space: finished trials are kept, interrupted
    ones go on from their last checkpoint. ``on_event(trial name, event)`` sees all training events.
    Raises ConfigError for a space that does not fit.
    """
    if trials < 1:
        raise ConfigError(f"trials={trials}: a sweep needs at least one trial")
    pairs = (
        dict(overrides) if isinstance(overrides, Mapping) else dict(o.partition("=")[::2] for o in overrides)
    )
    experiment = apply_overrides(experiment, overrides)
    check_space(experiment, space, fixed=pairs)
    experiment, manifest = open_manifest(experiment)
    parent = _open_sweep(experiment, space, manifest, storage, name, resume, list(command))
    board = _Board(parent, experiment, manifest, storage, on_event or (lambda _name, _event: None))
    status = "FAILED"
    try:
        connect()
        _search(experiment, space, trials, storage, parent.name, board, concurrent)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        board.close(status)
        parent.finish(status)
    outcome = SweepOutcome(parent.name, board.trials())
    if outcome.trials and all(trial.state == "failed" for trial in outcome.trials):
        raise KinerayError(f"sweep {parent.name}: every trial failed; {board.first_problem}")
    return outcome


def _open_sweep(
    experiment: Experiment,
    space: SearchSpace,
    manifest: Manifest,
    where: str,
    name: str | None,
    resume: bool,
    command: list[str],
) -> Run:
    science = fingerprint(experiment, manifest.content_hash + json.dumps(_described(space), sort_keys=True))
    if resume:
        if name:
            if get_run(where, name).fingerprint != science:
                raise ConfigError(
                    f"--resume {name}: was made with another experiment, manifest or search space"
                )
            return resume_run(where, name)
        for summary in list_runs(where):
            if summary.fingerprint == science and summary.parent is None:
                return resume_run(where, summary.name)
        raise ConfigError(f"--resume: no sweep of this experiment and search space in {where}")
    if name and run_exists(where, name):
        raise ConfigError(
            f"--name {name}: a run of that name is in {where}; choose another name, or pass --resume"
        )
    run = start_run(
        where,
        name=name or unused_name(where, f"{experiment.name}-sweep"),
        experiment=experiment,
        fingerprint=science,
        manifest=manifest,
        command=command,
    )
    run.set_tags({"sweep.space": json.dumps(_described(space))})
    return run


def _described(space: SearchSpace) -> dict[str, list[Any]]:
    return {
        key: list(domain.values)
        if isinstance(domain, Choice)
        else [type(domain).__name__, domain.low, domain.high]
        for key, domain in space.items()
    }


def _search(
    experiment: Experiment,
    space: SearchSpace,
    trials: int,
    where: str,
    name: str,
    board: "_Board",
    concurrent: int | None,
) -> None:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Optuna's own SQLite file is what a resumed sweep reads: no pickles.
    folder = Path("./runs" if is_remote(where) else where) / name
    folder.mkdir(parents=True, exist_ok=True)
    study_storage = optuna.storages.RDBStorage(f"sqlite:///{folder.absolute()}/optuna.db")
    study = optuna.create_study(
        study_name="sweep", storage=study_storage, direction="maximize", load_if_exists=True
    )
    done = [t for t in study.trials if t.state is optuna.trial.TrialState.COMPLETE]
    cut_off = [t for t in study.trials if t.state is optuna.trial.TrialState.RUNNING]
    for trial in cut_off:
        study_storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    board.known([t.params for t in done])
    remaining = trials - len(done)
    if remaining <= 0:
        return
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    at_once = concurrent or max(1, gpus or cpus)
    share = {"cpu": max(1, cpus // at_once)} | ({"gpu": 1} if gpus else {})
    settings = {
        "experiment": to_yaml(experiment),
        "folder": absolute(join(where, name)),
        "manifest": experiment.data.manifest,
        "cpus": share["cpu"],
        "mailbox": board.mailbox(),
    }
    searcher = OptunaSearch(
        {key: _tune_domain(domain) for key, domain in space.items()},
        metric="score",
        mode="max",
        study_name="sweep",
        storage=study_storage,
        # Continued from the same seed, TPE would draw its first points again.
        sampler=optuna.samplers.TPESampler(seed=experiment.seed + len(study.trials)),
        points_to_evaluate=[t.params for t in cut_off[:remaining] if t.params] or None,
    )
    epochs = experiment.train.epochs
    with tempfile.TemporaryDirectory(prefix="kineray-ray-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_run_trial, settings=settings), share),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=remaining,
                search_alg=ConcurrencyLimiter(searcher, max_concurrent=at_once),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=epochs, grace_period=max(1, epochs // 9), reduction_factor=3
                ),
            ),
            run_config=tune.RunConfig(name=name.replace("/", "-"), storage_path=scratch, verbose=0),
        )
        with _quiet():
            tuner.fit()


def _tune_domain(domain: Any) -> Any:
    from ray import tune

    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


def _quiet() -> contextlib.AbstractContextManager[Any]:
    """Tune prints its tables even at verbose=0; stdout is kept for results."""
    import io

    return contextlib.redirect_stdout(io.StringIO())


def _run_trial(params: dict[str, Any], *, settings: dict[str, Any]) -> None:
    """One trial, in a process of its own."""
    import torch
    from ray import tune

    from kineray import training

    torch.set_num_threads(settings["cpus"])
    base = from_yaml(settings["experiment"])
    experiment = apply_overrides(base, params)
    name = trial_name(base, params)
    mailbox = settings["mailbox"]
    mailbox.put.remote((name, params))
    best = 0.0

    def on_event(event: Event) -> None:
        nonlocal best
        mailbox.put.remote((name, event))
        if isinstance(event, ValidationEvent):
            # ASHA tells Optuna the last value of a stopped trial, so report the best one so far.
            best = max(best, event.score)
            tune.report({"score": best, "epoch": event.epoch})

    manifest = load_manifest(settings["manifest"])
    try:
        result = training.train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=training.CheckpointStore(join(settings["folder"], name, "checkpoints")),
            on_event=on_event,
            device="cuda" if torch.cuda.is_available() else "cpu",
            threads=max(1, settings["cpus"]),
            resume=True,
        )
        if result.score is not None:
            tune.report({"score": result.score, "epoch": experiment.train.epochs})
        mailbox.put.remote((name, "finished"))
    except NonFiniteLossError as error:
        mailbox.put.remote((name, f"diverged: {error}"))
        tune.report({"score": 0.0, "epoch": experiment.train.epochs})
    except KinerayError as error:
        mailbox.put.remote((name, f"failed: {error}"))
        raise


@dataclass
class _Entry:
    run: Run
    params: dict[str, Any]
    state: str = "running"
    epoch: int = 0
    score: float | None = None


@dataclass
class _Board:
    """The driver's view of all trials, and the only writer of their records."""

    parent: Run
    experiment: Experiment
    manifest: Manifest
    where: str
    on_event: Callable[[str, Event], None]
    first_problem: str = ""
    _entries: dict[str, _Entry] = field(default_factory=dict)
    _mailbox: Any = None
    _done: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def mailbox(self) -> Any:
        """Start listening; the handle that trials write to."""
        import ray

        from kineray.orchestration.training import _Mailbox

        self._mailbox = ray.remote(_Mailbox).options(num_cpus=0, scheduling_strategy=driver_node()).remote()
        self._thread = threading.Thread(target=self._listen, name="kineray-events", daemon=True)
        self._thread.start()
        return self._mailbox

    def known(self, finished: list[dict[str, Any]]) -> None:
        """Take over the trials that an earlier session of this sweep has ended."""
        for params in finished:
            name = trial_name(self.experiment, params)
            detail = get_run(self.where, f"{self.parent.name}/{name}")
            self._entries[name] = _Entry(
                resume_run(self.where, detail.name),
                params,
                detail.tags.get("trial.state", "interrupted"),
                int(detail.tags.get("trial.epoch", "0")),
                float(detail.tags["trial.score"]) if "trial.score" in detail.tags else None,
            )

    def trials(self) -> list[Trial]:
        """All trials, best first; those without a score last."""
        found = [
            Trial(entry.run.name, entry.params, entry.state, entry.epoch, entry.score)
            for entry in self._entries.values()
        ]
        return sorted(found, key=lambda trial: -1.0 if trial.score is None else trial.score, reverse=True)

    def close(self, status: str) -> None:
        """Stop listening and end every trial's record; ``status`` is how the sweep itself ended."""
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._move()
        for entry in self._entries.values():
            if entry.state == "running":
                entry.state = "stopped" if status == "FINISHED" else "interrupted"
            score = {} if entry.score is None else {"trial.score": repr(entry.score)}
            entry.run.set_tags({"trial.state": entry.state, "trial.epoch": str(entry.epoch), **score})
            ends = {"failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED"}
            entry.run.finish(ends.get(entry.state, "FINISHED"))

    def _listen(self) -> None:
        while not self._done.wait(0.25):
            self._move()

    def _move(self) -> None:
        import ray

        for name, item in ray.get(self._mailbox.drain.remote()):
            if isinstance(item, dict):
                self._start(name, item)
                continue
            entry = self._entries[name]
            if isinstance(item, str):
                entry.state, _, problem = item.partition(": ")
                if problem:
                    self.first_problem = self.first_problem or problem
                    entry.run.set_tags({"problem": problem})
                continue
            record(entry.run, item)
            if isinstance(item, ValidationEvent):
                entry.epoch = item.epoch
                entry.score = max(item.score, entry.score or 0.0)
            self.on_event(name, item)

    def _start(self, name: str, params: dict[str, Any]) -> None:
        full_name = f"{self.parent.name}/{name}"
        if run_exists(self.where, full_name):
            self._entries[name] = _Entry(resume_run(self.where, full_name), params)
            return
        experiment = apply_overrides(self.experiment, params)
        run = start_run(
            self.where,
            name=full_name,
            experiment=experiment,
            fingerprint=fingerprint(experiment, self.manifest.content_hash),
            manifest=self.manifest,
            command=[],
            parent=self.parent.run_id,
        )
        self._entries[name] = _Entry(run, params)
