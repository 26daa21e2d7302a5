"""Hyper-parameter search: its checks, and its record."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

from kineray.config import (
    Experiment,
    SearchSpace,
    all_keys,
    apply_overrides,
    as_pairs,
    check_main_guard,
    check_space,
    loaded_plugins,
    space_to_plain,
    to_yaml,
    with_default_spaces,
)
from kineray.config.space import LONGEST_TRIAL_NAME
from kineray.data import Manifest
from kineray.errors import ConfigError, KinerayError
from kineray.launched import launched
from kineray.options import WorkerOptions
from kineray.orchestration.board import Board, SweepOutcome
from kineray.orchestration.life import alive
from kineray.orchestration.messages import SweepTask
from kineray.orchestration.probing import probing
from kineray.orchestration.progress import LoggedProgress, visible_progress
from kineray.orchestration.records import open_manifest, open_record, run_fingerprint
from kineray.orchestration.settings import SearchSettings, values_of
from kineray.orchestration.signals import interruptible
from kineray.orchestration.startup import connect_and_open
from kineray.storage import absolute, delete_file, exists, join, runs_folder, write_bytes
from kineray.tracking import BEST_SCORE, PROBLEM, SCORE, SCORE_NAME, Run, check_name
from kineray.tracking.trials import ENDED
from kineray.training import Event, check_micro_batch
from kineray.training.features.checks import check_cacheable
from kineray.training.inputs import check_data

KIND = "-sweep"  # what follows the experiment's name in the default name of a sweep
TASK = "sweep.json"  # the file with all that is needed to resume a sweep
STOP = "stop"  # a file whose presence asks a sweep to stop

_DECIDE_CACHING = {"model.type", "model.frozen", "data.drawn_views"}  # each trial then checks for itself
_LONGEST_NAME = 250 - LONGEST_TRIAL_NAME - 1  # a run's has at most 250 characters


@dataclass(frozen=True)
class CheckedSweep:
    """A sweep that could start: its experiment with absolute paths, and its space with default spaces."""

    experiment: Experiment
    space: SearchSpace
    manifest: Manifest
    storage: str
    settings: SearchSettings
    options: WorkerOptions

    @property
    def space_json(self) -> str:
        """The space as JSON, whatever the order of its keys."""
        return json.dumps(space_to_plain(self.space), sort_keys=True)

    @property
    def fingerprint(self) -> str:
        """Of the experiment and the space."""
        return run_fingerprint(self.experiment, self.manifest, self.space_json)

    def task(self) -> SweepTask:
        """What another process needs to run the sweep."""
        return SweepTask(
            to_yaml(self.experiment),
            json.dumps(space_to_plain(self.space)),
            absolute(self.storage),
            self.settings,
            self.options,
            loaded_plugins(),
        )


def check_sweep(
    experiment: Experiment,
    space: SearchSpace,
    *,
    settings: SearchSettings,
    overrides: Iterable[str] | Mapping[str, object],
    fixed: Iterable[str] = (),
    storage: str | None,
    name: str | None,
    options: WorkerOptions,
) -> CheckedSweep:
    """The sweep that these arguments describe. Raises ConfigError if it could not start.

    ``fixed``: keys, besides those of ``overrides``, that are not to be searched.
    """
    check_main_guard("kineray.sweep")
    if launched() is not None:
        raise ConfigError(
            "Ray starts the processes of a sweep",
            code="not_under_torchrun",
            key="WORLD_SIZE",
            remedy="start it once, without torchrun",
        )
    if not isinstance(overrides, Mapping):
        overrides = tuple(overrides)  # read twice below
    experiment = apply_overrides(experiment, overrides)
    fixed = {*fixed, *as_pairs(overrides)}
    check_space(experiment, space, fixed=fixed)
    space = with_default_spaces(space, fixed)
    check_space(experiment, space)
    settings.check(space)
    for group in values_of(experiment, space, "train.bn_group"):
        check_micro_batch(options.micro_batch, group)
    if options.cache_features and not _DECIDE_CACHING & {*all_keys(space)}:
        check_cacheable(experiment)
    if name is not None:
        check_name(name)
    _check_length(name or f"{experiment.name}{KIND}-000")
    storage = runs_folder(storage)
    experiment, manifest = open_manifest(experiment, storage)
    check_data(experiment, manifest)
    return CheckedSweep(experiment, space, manifest, storage, settings, options)


def run_sweep(
    sweep: CheckedSweep,
    *,
    name: str | None = None,
    resume: bool = False,
    in_background: bool = False,
    on_event: Callable[[str, Event], None] | None = None,
    command: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
) -> SweepOutcome:
    """Run a sweep in this process until it ends, and return its trials, best first.

    ``name``: of the sweep (default: the experiment's with ``-sweep``, numbered). ``in_background``: whether
    another process has claimed the name, and may have asked for an end by now. ``resume`` continues the sweep
    ``name``, or the newest one of this experiment and space: trials that ended are kept, interrupted ones
    continue from their last checkpoint. ``on_event(trial name, event)`` is called with all training events;
    without it, the logger ``kineray.progress`` gets them as lines. ``command``: the words of the command
    line, and ``tags``, for the record.

    Raises KinerayError ``every_trial_failed`` and ``too_many_failed``.
    """
    experiment, manifest, storage = sweep.experiment, sweep.manifest, sweep.storage
    preprocessing = check_data(experiment, manifest).preprocessing
    with probing(experiment, preprocessing) as probe:
        connect_and_open(storage)
        probe.result()
    with interruptible(), visible_progress():
        parent = open_record(
            experiment,
            manifest,
            sweep.fingerprint,
            storage=storage,
            name=name,
            resume=resume,
            command=command,
            kind=KIND,
            is_claimed=in_background,
        ).run
        described = {"sweep.space": sweep.space_json, "sweep.settings": sweep.settings.to_json()}
        parent.set_tags({**described, **(tags or {})})
        folder = join(storage, parent.name)
        write_bytes(join(folder, TASK), sweep.task().to_json().encode())
        if not in_background and exists(join(folder, STOP)):
            delete_file(join(folder, STOP))
        with nullcontext() if in_background else alive(folder):
            return _search(sweep, parent, on_event)


def _search(sweep: CheckedSweep, parent: Run, on_event: Callable[[str, Event], None] | None) -> SweepOutcome:
    """Try the points of a sweep, and end its record. Raises what ``run_sweep`` raises."""
    from kineray.orchestration.tuning import STOPPED, search  # imports Ray, which is set up by now

    stop = join(sweep.storage, parent.name, STOP)
    logged = LoggedProgress()
    report = on_event or (lambda trial, event: logged(event, trial))
    board = Board(parent, sweep.experiment, sweep.manifest, sweep.storage, report, sweep.options.tensorboard)
    status, ended, problem = "FAILED", "", None
    try:
        ended = search(
            sweep.experiment, sweep.space, sweep.settings, board, sweep.options, lambda: exists(stop)
        )
        status = "KILLED" if ended == STOPPED else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        board.close(status, is_cut_off=bool(ended))
        outcome = SweepOutcome(parent.name, board.score, board.trials(), ended)
        _record_best(parent, outcome)
        if status == "FINISHED":
            problem = _too_many_failed(sweep, outcome, board.first_problem)
        if problem is not None:
            status = "FAILED"
            parent.set_tags({PROBLEM: problem.problem})
        parent.set_tags({ENDED: ended})
        parent.finish(status)
    if problem is not None:
        raise problem
    return outcome


def _too_many_failed(sweep: CheckedSweep, outcome: SweepOutcome, first_problem: str) -> KinerayError | None:
    """The error of a sweep in which all trials, or more than it allows, failed."""
    states = [trial.state for trial in outcome.trials]
    failed, planned = states.count("failed"), sweep.settings.trials_of(sweep.space)
    if failed == len(states) and not (outcome.ended and not states):
        code, problem = "every_trial_failed", "every trial failed"
    elif outcome.ended and sweep.settings.too_many(failed, planned):
        code, problem = "too_many_failed", f"{failed} of {planned} trials failed, more than max_failed allows"
    else:
        return None
    return KinerayError(
        f"{problem}: {first_problem}",
        code=code,
        key=outcome.name,
        remedy="fix that, and continue the sweep with `resume`",
    )


def _record_best(parent: Run, outcome: SweepOutcome) -> None:
    """Give the record of a sweep the score, the name and the searched values of its best trial."""
    best = outcome.best()
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
