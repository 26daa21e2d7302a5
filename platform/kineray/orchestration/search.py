"""Hyper-parameter search: Ray Tune with Optuna's TPE and ASHA around the plain training loop."""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from kineray.config import (
    Choice,
    Experiment,
    LogUniform,
    SearchSpace,
    apply_overrides,
    check_main_guard,
    check_space,
    leaf_keys,
    loaded_plugins,
    to_yaml,
    trial_name,
)
from kineray.config.space import LONGEST_TRIAL_NAME
from kineray.errors import ConfigError, KinerayError
from kineray.launched import launched
from kineray.options import WorkerOptions
from kineray.orchestration.board import Board, SweepOutcome
from kineray.orchestration.messages import TrialTask
from kineray.orchestration.probing import probing
from kineray.orchestration.progress import LoggedProgress, visible_progress
from kineray.orchestration.records import open_manifest, open_record, run_fingerprint
from kineray.orchestration.signals import interruptible
from kineray.orchestration.startup import connect_and_open
from kineray.orchestration.trial import run_trial
from kineray.storage import DEFAULT_STORAGE, absolute, is_remote, join, runs_folder
from kineray.tracking import BEST_SCORE, SCORE, SCORE_NAME, Run, check_name
from kineray.tracking.client import sqlite_uri
from kineray.training import Event, check_micro_batch
from kineray.training.features.checks import check_cacheable
from kineray.training.inputs import check_data

_DECIDE_CACHING = {"model.type", "model.frozen", "data.drawn_views"}  # each trial then checks for itself
_LONGEST_NAME = 250 - LONGEST_TRIAL_NAME - 1  # a run's has at most 250 characters


def sweep(
    experiment: Experiment,
    space: SearchSpace,
    *,
    trials: int = 6,
    overrides: Iterable[str] | Mapping[str, object] = (),
    storage: str | None = None,
    name: str | None = None,
    resume: bool = False,
    concurrent: int | None = None,
    options: WorkerOptions = WorkerOptions(),
    on_event: Callable[[str, Event], None] | None = None,
    command: Iterable[str] = (),
) -> SweepOutcome:
    """Search ``space`` around ``experiment`` with ``trials`` trials and return them, best first.

    ``space`` maps dotted keys to ``Choice``, ``Uniform`` or ``LogUniform``; it is checked against the
    experiment before any trial starts. Every trial trains in one process (on one GPU if the cluster has
    GPUs) and is an MLflow child run named by its dotted keys. A trial ends after the epochs of its own
    experiment, or earlier if ASHA stops it. ``overrides``: changes to the experiment that all trials
    share. ``storage``: folder or s3:// prefix of all runs (default: KINERAY_STORAGE, or ``./runs``).
    ``name``: of the sweep (default: the experiment's with ``-sweep``, numbered). ``resume`` continues the
    sweep ``name``, or the newest one of this experiment and space: finished trials are kept, interrupted
    ones continue from their last checkpoint. ``concurrent``: number of trials at the same time (default:
    one for every GPU, or CPU, of the cluster). ``options``: how the process of a trial does its work; with
    ``cache_features`` the first trials on each host compute the features together, once for each set of
    values that these depend on, and all others read them.
    ``on_event(trial name, event)`` is called with all training events; without it, the logger
    ``kineray.progress`` gets them as lines. ``command``: the words of the
    command line, for the record.

    Raises ConfigError for a space that does not fit the experiment, and KinerayError
    ``every_trial_failed``.
    """
    check_main_guard("kineray.sweep")
    if launched() is not None:
        raise ConfigError(
            "Ray starts the processes of a sweep",
            code="not_under_torchrun",
            key="WORLD_SIZE",
            remedy="start it once, without torchrun",
        )
    _check_count("trials", trials)
    _check_count("concurrent", concurrent)
    if not isinstance(overrides, Mapping):
        overrides = tuple(overrides)  # read twice below
    experiment = apply_overrides(experiment, overrides)
    fixed = overrides if isinstance(overrides, Mapping) else [text.partition("=")[0] for text in overrides]
    check_space(experiment, space, fixed=fixed)
    for group in _values(experiment, space, "train.bn_group"):
        check_micro_batch(options.micro_batch, group)
    if options.cache_features and not _DECIDE_CACHING & space.keys():
        check_cacheable(experiment)
    if name is not None:
        check_name(name)
    _check_length(name or f"{experiment.name}-sweep-000")
    storage = runs_folder(storage)
    experiment, manifest = open_manifest(experiment, storage)
    preprocessing = check_data(experiment, manifest).preprocessing
    space_json = _space_to_json(space)
    with probing(experiment, preprocessing) as probe:
        connect_and_open(storage)
        probe.result()
    with interruptible(), visible_progress():
        opened = open_record(
            experiment,
            manifest,
            run_fingerprint(experiment, manifest, space_json),
            storage=storage,
            name=name,
            resume=resume,
            command=command,
            kind="-sweep",
        )
        parent = opened.run
        parent.set_tags({"sweep.space": space_json})
        logged = LoggedProgress()
        report = on_event or (lambda trial, event: logged(event, trial))
        board = Board(parent, experiment, manifest, storage, report, options.tensorboard)
        status = "FAILED"
        try:
            _search(experiment, space, trials, storage, board, concurrent, options)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            board.close(status)
            outcome = SweepOutcome(parent.name, board.score, board.trials())
            _record_best(parent, outcome)
            all_failed = all(trial.state == "failed" for trial in outcome.trials)
            parent.finish("FAILED" if status == "FINISHED" and all_failed else status)
    if all_failed:
        raise KinerayError(
            f"every trial failed: {board.first_problem}",
            code="every_trial_failed",
            key=parent.name,
            remedy="fix that, and continue the sweep with `resume`",
        )
    return outcome


def _record_best(parent: Run, outcome: SweepOutcome) -> None:
    """Give the record of a sweep the score, the name and the searched values of its best trial."""
    best = outcome.best
    if best is not None and best.score is not None:
        parent.append_metrics({SCORE: best.score})
        params = {f"sweep.best.{key}": str(value) for key, value in best.params.items()}
        parent.set_tags({"sweep.best": best.name, BEST_SCORE: repr(best.score), **params})
        parent.set_tags({SCORE_NAME: outcome.score} if outcome.score else {})


def _check_length(name: str) -> None:
    """Raise ConfigError for a sweep's name after which those of its trials would be too long."""
    if len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"{len(name)} characters; names of trials are added to it",
            code="bad_name",
            key="name",
            value=name,
            remedy=f"set `name` to at most {_LONGEST_NAME} characters",
        )


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ConfigError(
            "less than 1", code="out_of_range", key=name, value=value, remedy=f"set `{name}` to at least 1"
        )


def _values(experiment: Experiment, space: SearchSpace, key: str) -> list[int]:
    """All values that the integer ``key`` takes in a sweep. Domains of integers are always choices."""
    domain = space.get(key)
    found = domain.values if isinstance(domain, Choice) else [leaf_keys(experiment)[key]]
    return [int(float(str(value))) for value in found]  # values from the command line are text


def _space_to_json(space: SearchSpace) -> str:
    domains = {
        key: list(domain.values)
        if isinstance(domain, Choice)
        else [type(domain).__name__, domain.low, domain.high]
        for key, domain in space.items()
    }
    return json.dumps(domains, sort_keys=True)


def _search(
    experiment: Experiment,
    space: SearchSpace,
    trials: int,
    storage: str,
    board: Board,
    concurrent: int | None,
    options: WorkerOptions,
) -> None:
    import optuna
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter

    from kineray.orchestration.searcher import DistinctSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A resumed sweep reads Optuna's SQLite file, and no pickle.
    name = board.parent.name
    folder = Path(DEFAULT_STORAGE if is_remote(storage) else storage) / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "optuna.db").touch()  # SQLite would let only its owner write it, whatever the umask
    study_storage = optuna.storages.RDBStorage(sqlite_uri(folder.absolute() / "optuna.db"))
    study = optuna.create_study(
        study_name="sweep", storage=study_storage, direction="maximize", load_if_exists=True
    )
    done = [t for t in study.trials if t.state is optuna.trial.TrialState.COMPLETE]
    cut_off = [t for t in study.trials if t.state is optuna.trial.TrialState.RUNNING]
    for trial in cut_off:
        study_storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.FAIL)
    board.restore([t.params for t in done])
    remaining = trials - len(done)
    if remaining <= 0:
        return
    resources = ray.cluster_resources()
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    max_concurrent = concurrent or max(1, gpus or cpus)
    resources_per_trial = {"cpu": 1} | ({"gpu": 1} if gpus else {})
    task = TrialTask(
        experiment=to_yaml(experiment),
        manifest=experiment.data.manifest or "",
        folder=absolute(join(storage, name)),
        run_id=board.parent.run_id,
        options=options,
        plugins=loaded_plugins(),
        cpus=max(1, cpus // max_concurrent),
    )
    trainable = tune.with_parameters(run_trial, task_json=task.to_json(), mailbox=board.start_listening())
    searcher = DistinctSearch(
        {key: _tune_domain(domain) for key, domain in space.items()},
        metric="score",
        mode="max",
        study_name="sweep",
        storage=study_storage,
        name_of=partial(trial_name, experiment),
        tried=[trial_name(experiment, t.params) for t in done],
        # With the same seed as before, TPE would draw its first points again.
        sampler=optuna.samplers.TPESampler(seed=experiment.seed + len(study.trials)),
        points_to_evaluate=[t.params for t in cut_off[:remaining] if t.params] or None,
    )
    longest = max(_values(experiment, space, "train.epochs"))
    # Not checked as a whole: a trial may have other warm-up epochs, too.
    train = experiment.train.model_copy(update={"epochs": longest})
    epochs = experiment.model_copy(update={"train": train}).run_epochs
    with tempfile.TemporaryDirectory(prefix="kineray-ray-", ignore_cleanup_errors=True) as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources_per_trial),
            tune_config=tune.TuneConfig(
                metric="score",
                mode="max",
                num_samples=remaining,
                reuse_actors=True,  # importing torch can take longer than an epoch
                search_alg=ConcurrencyLimiter(searcher, max_concurrent=max_concurrent),
                scheduler=ASHAScheduler(
                    time_attr="epoch", max_t=epochs, grace_period=max(1, epochs // 9), reduction_factor=3
                ),
            ),
            run_config=tune.RunConfig(
                name=name.replace("/", "-"),
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=options.max_failures),
                verbose=0,
            ),
        )
        # Tune would handle Ctrl-C itself and return as if the sweep were complete.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        with _discard_stdout(), warnings.catch_warnings():
            # A trial that continues in a new process counts its reports from 1 again.
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            results = tuner.fit()
    for result in results:
        if result.error is not None:
            board.failed(trial_name(experiment, result.config), str(result.error))


def _tune_domain(domain: Any) -> Any:
    from ray import tune

    if isinstance(domain, Choice):
        return tune.choice(list(domain.values))
    return (tune.loguniform if isinstance(domain, LogUniform) else tune.uniform)(domain.low, domain.high)


def _discard_stdout() -> contextlib.AbstractContextManager[Any]:
    """Tune prints its tables even at verbose=0, but stdout is for results."""
    import io

    return contextlib.redirect_stdout(io.StringIO())
