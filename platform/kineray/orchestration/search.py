"""Hyper-parameter search: Ray Tune with Optuna's TPE and ASHA over the same training loop."""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kineray.cluster import connect
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
from kineray.errors import ConfigError, KinerayError, NonFiniteLossError
from kineray.orchestration.board import Board, SweepOutcome
from kineray.orchestration.training import open_manifest
from kineray.storage import absolute, is_remote, join
from kineray.tracking import Run, get_run, list_runs, resume_run, run_exists, start_run, unused_name
from kineray.training import CheckpointEvent, Event, ValidationEvent


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
    board = Board(parent, experiment, manifest, storage, on_event or (lambda _name, _event: None))
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
        outcome = SweepOutcome(parent.name, board.trials())
        useless = all(trial.state == "failed" for trial in outcome.trials)
        parent.finish("FAILED" if status == "FINISHED" and useless else status)
    if useless:
        raise KinerayError(f"sweep {parent.name}: every trial failed: {board.first_problem}")
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
    board: Board,
    concurrent: int | None,
) -> None:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter

    from kineray.orchestration.searcher import DistinctSearch

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
    share = {"cpu": 1} | ({"gpu": 1} if gpus else {})
    settings = {
        "experiment": to_yaml(experiment),
        "folder": absolute(join(where, name)),
        "manifest": experiment.data.manifest,
        "cpus": max(1, cpus // at_once),
        "mailbox": board.mailbox(),
    }
    searcher = DistinctSearch(
        {key: _tune_domain(domain) for key, domain in space.items()},
        metric="score",
        mode="max",
        study_name="sweep",
        storage=study_storage,
        name_of=partial(trial_name, experiment),
        tried=[trial_name(experiment, t.params) for t in done],
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
                reuse_actors=True,  # importing torch takes longer than many a first epoch
                search_alg=ConcurrencyLimiter(searcher, max_concurrent=at_once),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=epochs, grace_period=max(1, epochs // 9), reduction_factor=3
                ),
            ),
            run_config=tune.RunConfig(name=name.replace("/", "-"), storage_path=scratch, verbose=0),
        )
        # Tune would take Ctrl-C for itself and end as if the sweep were done.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        with _quiet():
            results = tuner.fit()
    for result in results:
        if result.error is not None:
            board.failed(trial_name(experiment, result.config), str(result.error))


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
    name = trial_name(base, params)
    mailbox = settings["mailbox"]
    checkpoints = training.CheckpointStore(join(settings["folder"], name, "checkpoints"))
    before = checkpoints.best_score()  # of a trial that was interrupted
    mailbox.put.remote((name, {"params": params, "score": before}))
    last_epoch = base.train.epochs
    best, validated, reported = before or 0.0, 0, False

    def on_event(event: Event) -> None:
        nonlocal best, validated, reported
        mailbox.put.remote((name, event))
        if isinstance(event, ValidationEvent):
            # ASHA tells Optuna the last value of a stopped trial, so report the best one so far.
            best, validated = max(best, event.score), event.epoch
        elif isinstance(event, CheckpointEvent) and validated:
            # Only now, since ASHA may end this process in the report: the score has its checkpoint.
            epoch, validated, reported = validated, 0, True
            if epoch == last_epoch:
                mailbox.put.remote((name, "finished"))
            tune.report({"score": best, "epoch": epoch})

    try:
        experiment = apply_overrides(base, params)
        last_epoch = experiment.train.epochs
        manifest = load_manifest(settings["manifest"])
        result = training.train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=checkpoints,
            on_event=on_event,
            device="cuda" if torch.cuda.is_available() else "cpu",
            decoders=max(1, settings["cpus"]),
            resume=True,
        )
        if not reported and result.score is not None:  # interrupted after its last step
            mailbox.put.remote((name, "finished"))
            tune.report({"score": result.score, "epoch": last_epoch})
    except NonFiniteLossError as error:
        mailbox.put.remote((name, f"diverged: {error}"))
        tune.report({"score": 0.0, "epoch": last_epoch})
