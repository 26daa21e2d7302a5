"""Ray Train around the plain training loop: workers, recovery, and the one writer of the run's record."""

import logging
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from kineray.config import Experiment, check_main_guard, loaded_plugins, to_yaml
from kineray.errors import ConfigError, KinerayError
from kineray.launched import launched
from kineray.options import WorkerOptions
from kineray.orchestration.mailbox import (
    LOSS,
    close_mailbox,
    drain,
    open_mailbox,
    record,
    record_checkpoints,
    record_goodput,
    record_system,
    stop_workers,
)
from kineray.orchestration.messages import (
    FromWorker,
    SystemMetrics,
    WorkerAlive,
    WorkerFailed,
    WorkerStarted,
    WorkerTask,
)
from kineray.orchestration.preparing import open_run, prepare
from kineray.orchestration.probing import probing
from kineray.orchestration.process import WORKER_EXCEPTION
from kineray.orchestration.progress import LoggedProgress, visible_progress
from kineray.orchestration.records import record_shape
from kineray.orchestration.signals import interruptible
from kineray.orchestration.snapshots import delete_everywhere
from kineray.orchestration.startup import StartUp, connect_and_open, in_thread
from kineray.orchestration.torchrun import train_launched
from kineray.orchestration.watchdog import Watchdog
from kineray.orchestration.worker import run_worker
from kineray.orchestration.workers import WorkerCount, WorkerRange, one_for_every
from kineray.storage import absolute, join
from kineray.tracking import PROBLEM, Run
from kineray.training import ContinuedEvent, EndedEvent, Event, Goodput, StepEvent, TrainResult

log = logging.getLogger(__name__)

HANG = "hang"  # the tag that says which worker the others waited for

_JOIN_TIMEOUT_S = 900.0
_POLL_S = 0.25


@dataclass(frozen=True)
class RunOutcome:
    """The result of a finished run.

    ``step``: number of steps that were trained. ``score``: the metric that decides which checkpoint is the
    best, such as ``action/top1``; ``best`` and ``last``: its highest and its latest value in validation (0 to
    1), None if the run was never validated. ``best_checkpoint`` and ``last_checkpoint``: locations of
    checkpoint folders. ``goodput``: the share (0 to 1) of the time that was spent on steps that count;
    ``badput``: the shares of everything else, by cause; ``lost_steps``: number of steps that were made
    again after a failure. ``RunSummary`` has the same names.
    """

    name: str
    run_id: str
    step: int
    score: str
    best: float | None
    last: float | None
    best_checkpoint: str | None
    last_checkpoint: str | None
    goodput: float
    badput: dict[str, float]
    lost_steps: int


def train(
    experiment: Experiment,
    *,
    storage: str | None = None,
    workers: WorkerCount | None = None,
    name: str | None = None,
    resume: bool = False,
    extend: bool = False,
    fork: str | None = None,
    options: WorkerOptions = WorkerOptions(),
    on_event: Callable[[Event], None] | None = None,
    command: Iterable[str] = (),
) -> RunOutcome:
    """Train ``experiment`` and record it; returns when it is done.

    With Ray Train, or, where torchrun has started this process and others, with these and without Ray.

    ``storage``: folder or s3:// prefix of all runs (default: KINERAY_STORAGE, or ``./runs``).
    ``workers``: number of training processes (default: KINERAY_WORKERS, or one for every GPU of the
    cluster, or one), or the least and the most of them: the run then goes on with the hosts that are left
    when one is lost, and uses those that join; the global batch and its samples stay the same.
    ``name``: of the run (default: the experiment's, numbered); that of a run which ended
    before its first checkpoint may be used again, and its record is deleted. ``resume`` continues the
    run ``name``, or the newest unfinished run of this experiment, at its exact step. ``extend`` continues the
    run ``name`` for more epochs than it had: ``train.epochs`` and fields of the schedule may have other
    values. ``fork`` starts a new run from a checkpoint (weights, optimizer, state of the recipe and number of
    steps) of another one, with any other values that these allow: ``RUN``, or ``RUN@STEP`` for another
    checkpoint than its last. ``options``: how workers do their work. ``on_event`` is called in this process
    with every event of the training loop, in order; without it, the logger ``kineray.progress`` gets them as
    lines. ``command``: the words of the command line, for the record.

    Raises KinerayError for problems that the user can fix; the status of the run is then FAILED. Any other
    error in a worker (from a plug-in, for example) becomes a KinerayError ``worker_exception``: its message
    has the type, message, file and line of the error, and its notes have the worker's traceback.
    """
    check_main_guard("kineray.train")
    arguments: dict[str, Any] = {
        "storage": storage,
        "workers": workers,
        "name": name,
        "resume": resume,
        "extend": extend,
        "fork": fork,
        "options": options,
    }
    start = StartUp(on_event or LoggedProgress())
    if (launch := launched()) is not None:
        name, run_id, result = train_launched(launch, start, command, experiment=experiment, **arguments)
        return _outcome(name, run_id, result, start.goodput.result())
    prepared = prepare(experiment, **arguments)
    experiment = prepared.experiment
    start.wait_for("Ray and MLflow")
    with probing(experiment, prepared.data.preprocessing, prepared.checkpoint) as probe:
        joined = connect_and_open(prepared.storage)
        probe.result()
    with interruptible(), visible_progress():
        count, use_gpu = _placement(prepared.workers, experiment, joined)
        shape = prepared.shape(count.most)
        opened = open_run(prepared, command)
        run = opened.run
        record_shape(run, shape)
        task = WorkerTask(
            experiment=to_yaml(experiment),
            manifest=experiment.data.manifest or "",
            folder=absolute(join(prepared.storage, run.name)),
            run_id=run.run_id,
            options=options,
            plugins=loaded_plugins(),
            changed=opened.changed,
        )
        if options.tensorboard:
            run.write_tensorboard()
        start.goodput.continues(run.last_step(LOSS) or 0)
        status = "FAILED"
        try:
            if prepared.start is not None:
                start(ContinuedEvent(prepared.start.line))
            result = _fit(task, run, count, use_gpu, start)
            if (
                result.last_uri is not None
            ):  # a driver that was lost may have missed the event of a checkpoint
                record_checkpoints(run, result.step, result.last_uri, result.best_uri, result.best)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except KinerayError as error:
            run.set_tags({PROBLEM: str(error)})
            raise
        finally:
            goodput = start.goodput.result()
            record_goodput(run, goodput, run.last_step(LOSS) or 0)
            run.finish(status)
        start(EndedEvent(goodput))
    return _outcome(run.name, run.run_id, result, goodput)


def _outcome(name: str, run_id: str, result: TrainResult, goodput: Goodput) -> RunOutcome:
    return RunOutcome(
        name=name,
        run_id=run_id,
        step=result.step,
        score=result.score,
        best=result.best,
        last=result.last,
        best_checkpoint=result.best_uri,
        last_checkpoint=result.last_uri,
        goodput=goodput.effective,
        badput=goodput.badput,
        lost_steps=goodput.lost_steps,
    )


def _placement(asked: WorkerRange | None, experiment: Experiment, joined: bool) -> tuple[WorkerRange, bool]:
    """The number of workers, and whether each has a GPU.

    The hosts of a new cluster join one after the other, so a cluster that was joined gets time to grow to
    the number of workers that was asked for, or to the least one.
    """
    import ray

    deadline = time.monotonic() + (_JOIN_TIMEOUT_S if joined else 0)
    is_announced = False
    while True:
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        workers = asked or one_for_every(gpus, experiment)
        if workers.least <= (gpus or cpus):
            return workers, gpus > 0
        available = f"{gpus} GPUs" if gpus else f"{cpus} CPUs"
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"the cluster has only {available}",
                code="cluster_too_small",
                key="workers",
                value=workers.least,
                remedy="use fewer `workers`, or a larger cluster",
            )
        if not is_announced:
            log.warning("waiting for the cluster to grow from %s to %d workers", available, workers.least)
            is_announced = True
        time.sleep(2)


def _fit(task: WorkerTask, run: Run, workers: WorkerRange, use_gpu: bool, start: StartUp) -> TrainResult:
    import ray.exceptions
    import ray.train

    from kineray.orchestration.trainer import Trainer

    start.wait_for(str(workers))
    mailbox = open_mailbox()
    # One CPU is reserved per worker so that every worker finds a place; it uses its share of the host's CPUs.
    resources = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": 1.0}
    # For Ray's own bookkeeping; kineray needs nothing from it.
    scratch = tempfile.TemporaryDirectory(prefix="kineray-ray-", ignore_cleanup_errors=True)
    trainer = Trainer(
        partial(run_worker, task.to_json(), mailbox),
        workers,
        lambda: start.kept,
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.most,
            use_gpu=use_gpu,
            resources_per_worker=resources,
            # Communication is fastest within a host; packed CPU workers would leave other hosts idle.
            placement_strategy="PACK" if use_gpu else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            # Ray would silently continue an earlier run of the same name. kineray resumes from its own
            # checkpoints, so the name that Ray sees is always new.
            name=f"{run.name}-{time.time_ns():x}",
            storage_path=scratch.name,
            failure_config=ray.train.FailureConfig(max_failures=task.options.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    failures: list[WorkerFailed] = []
    watchdog, answers = Watchdog(), True
    # In the main thread Ray would handle Ctrl-C itself, and this process would not notice it.
    fit = in_thread(trainer.fit)
    try:
        while not fit.done():
            time.sleep(_POLL_S)
            failures = _deliver(mailbox, run, start, watchdog, failures)
        failures = _deliver(mailbox, run, start, watchdog, failures)
        result: TrainResult | None = fit.result().return_value
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        raise _cause(failures, error, run.name) from error
    except BaseException:  # Ctrl-C, or an error of ``on_event``: they must not train on without a record
        answers = stop_workers(mailbox)
        raise
    finally:
        scratch.cleanup()
        delete_everywhere(run.run_id, others=answers)
        if fit.done():  # else workers that Ray still starts ask it whether to train
            close_mailbox(mailbox)
    if result is None:
        raise _cause(failures, None, run.name)
    return result


def _deliver(
    mailbox: Any, run: Run, start: StartUp, watchdog: Watchdog, failures: list[WorkerFailed]
) -> list[WorkerFailed]:
    """Pass new messages to the record and to ``start``; returns ``failures`` and the new ones.

    A worker group that starts again has recovered from failures that were not permanent: they are dropped.
    """
    message: FromWorker
    for message in drain(mailbox):
        if isinstance(message, WorkerFailed):
            log.debug("worker %d on %s:\n%s", message.rank, message.host, message.traceback)
            failures = [*failures, message]
            continue
        if isinstance(message, SystemMetrics):
            record_system(run, message)
            continue
        if isinstance(message, WorkerAlive):
            watchdog(message)
        elif isinstance(message, WorkerStarted):
            record(run, message)
            watchdog.restarted()
            failures = [failure for failure in failures if failure.permanent]
            start.worker_started(message.workers)
        else:
            event = start.counted(message)
            record(run, event)
            start(event)
            if isinstance(event, StepEvent):
                watchdog.step_done(event.seconds)
    for problem in watchdog.problems():
        log.warning("%s", problem)
        run.set_tags({HANG: problem})
    return failures


def _cause(failures: list[WorkerFailed], error: Exception | None, name: str) -> KinerayError:
    """Why a run ended: the error that a worker reported, else what Ray reports about lost workers."""
    for failure in sorted(failures, key=lambda failure: not failure.permanent):
        if failure.error.code == WORKER_EXCEPTION:
            failure.error.add_note(failure.traceback)
        return failure.error
    log.debug("training failed", exc_info=error)
    lines = [line.strip() for line in str(_innermost(error)).splitlines() if line.strip()]
    return KinerayError(
        f"a worker was lost: {lines[-1] if lines else 'its process ended'}",
        code="worker_lost",
        key=name,
        remedy="continue the run with `resume`",
    )


def _innermost(error: BaseException | None) -> BaseException | None:
    """The error that Ray's own errors wrap."""
    failures = getattr(error, "worker_failures", None) or {}
    inner: BaseException | None = next((cause for cause in failures.values() if cause is not None), None)
    while inner is not None:
        error, inner = inner, getattr(inner, "cause", None) or inner.__cause__
    return error
