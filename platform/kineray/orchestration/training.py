"""Ray Train around the plain torch loop: workers, recovery, and the one writer of the run's record."""

import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from kineray import storage
from kineray.cluster import connect, cpus_of_this_node
from kineray.config import Experiment, apply_overrides, differing_keys, fingerprint, from_yaml, to_yaml
from kineray.data import Manifest, load_manifest
from kineray.errors import (
    ConfigError,
    ErrorBudgetError,
    KinerayError,
    ManifestError,
    NonFiniteLossError,
    StorageError,
)
from kineray.orchestration.mailbox import drain, open_mailbox, record
from kineray.tracking import Run, get_run, list_runs, resume_run, start_run, unused_name
from kineray.training import Event, absolute_inits, check_micro_batch

log = logging.getLogger(__name__)

_JOIN_TIMEOUT_S = 900.0
_DELIVERY_S = 0.25
_FINAL = (NonFiniteLossError, ErrorBudgetError, ManifestError, ConfigError)  # a retry cures none of these


@dataclass(frozen=True)
class Launch:
    """Where and how to train; none of it changes the science.

    ``workers`` None: KINERAY_WORKERS, or one for every GPU of the cluster, or one. ``resume`` continues
    the run ``name``, or the newest unfinished run of this experiment. ``micro_batch``: clips that one
    worker holds at once, a multiple of train.bn_group. ``checkpoint_every``: steps between checkpoints,
    besides the one after each validation. ``decoders``: processes that decode for one worker (None: as
    many as it has CPUs); ``max_memory``: bytes that decoded clips may take in each worker.
    ``activation_checkpointing``: less memory of the device, for a second forward pass.
    ``max_failures``: how often a lost worker is replaced before the run gives up.
    """

    storage: str = "./runs"
    workers: int | None = None
    name: str | None = None
    resume: bool = False
    micro_batch: int | None = None
    checkpoint_every: int | None = None
    decoders: int | None = None
    max_memory: int | None = None
    activation_checkpointing: bool = False
    max_failures: int = 3
    command: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run left: its name, steps, best validation score and checkpoint locations."""

    name: str
    run_id: str
    step: int
    score: float | None
    best: str | None
    last: str | None


def train(experiment: Experiment, launch: Launch, on_event: Callable[[Event], None]) -> RunOutcome:
    """Train ``experiment`` with Ray Train and record it; returns when it is done.

    ``on_event`` sees every event of the training loop, in order, in this process. Raises
    KinerayError for what the user can fix; the record of the run then says FAILED.
    """
    experiment, manifest = open_manifest(experiment)
    science = fingerprint(experiment, manifest.content_hash)
    check_micro_batch(launch.micro_batch, experiment.train.bn_group)
    joined = connect()
    workers, use_gpu = _placement(launch.workers, experiment, joined)
    run = _open_run(experiment, launch, science, manifest)
    folder = storage.join(launch.storage, run.name)
    status = "FAILED"
    try:
        storage.write_bytes(storage.join(folder, "experiment.yaml"), to_yaml(experiment).encode())
        outcome = _fit(experiment, launch, run, folder, workers, use_gpu, on_event)
        status = "FINISHED"
        return outcome
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        run.finish(status)


def open_manifest(experiment: Experiment) -> tuple[Experiment, Manifest]:
    """The experiment with absolute paths, so that its record holds anywhere, and the manifest."""
    if not experiment.data.manifest:
        raise ConfigError(
            "data.manifest: no manifest given; pass data.manifest=PATH (kineray data import makes one)"
        )
    uri = storage.absolute(experiment.data.manifest)
    paths = {"data.manifest": uri, **absolute_inits(experiment.model)}
    return apply_overrides(experiment, paths), load_manifest(uri)


def _open_run(experiment: Experiment, launch: Launch, science: str, manifest: Manifest) -> Run:
    if launch.resume:
        name = launch.name or _newest_unfinished(launch.storage, science, experiment)
        recorded = get_run(launch.storage, name).fingerprint
        if recorded != science:
            raise ConfigError(f"--resume {name}: {_what_differs(experiment, launch.storage, name)}")
        return resume_run(launch.storage, name)
    if launch.name is not None:
        folder = storage.join(launch.storage, launch.name)
        if storage.exists(storage.join(folder, "experiment.yaml")):
            raise ConfigError(
                f"--name {launch.name}: a run of that name is in {launch.storage}; "
                "choose another name, or pass --resume"
            )
    return start_run(
        launch.storage,
        name=launch.name or unused_name(launch.storage, experiment.name),
        experiment=experiment,
        fingerprint=science,
        manifest=manifest,
        command=launch.command,
    )


def _newest_unfinished(where: str, science: str, experiment: Experiment) -> str:
    runs = [run for run in list_runs(where) if run.parent is None and run.status != "FINISHED"]
    for run in runs:  # newest first
        if run.fingerprint == science:
            return run.name
    near = [run.name for run in runs if run.name.startswith(experiment.name)]
    hint = f"; {near[0]}: {_what_differs(experiment, where, near[0])}" if near else ""
    raise ConfigError(f"--resume: no unfinished run of this experiment in {where}{hint}")


def _what_differs(experiment: Experiment, where: str, name: str) -> str:
    path = storage.join(where, name, "experiment.yaml")
    if not storage.exists(path):
        return "was made by another experiment"
    keys = [
        key
        for key in differing_keys(from_yaml(storage.read_bytes(path).decode(), path), experiment)
        if key not in {"name", "data.manifest"}
    ]
    if not keys:
        return "was made with another content of the manifest"
    return f"was made with other values of {', '.join(keys[:6])}"


def _placement(asked: int | None, experiment: Experiment, joined: bool) -> tuple[int, bool]:
    """How many workers, and whether each has a GPU.

    The hosts of a cluster that was just started join one after the other, so a joined cluster gets
    time to grow to the number of workers that was asked for.
    """
    import ray

    groups = experiment.train.global_batch // experiment.train.bn_group
    if asked and asked > groups:
        raise ConfigError(
            f"--workers {asked}: train.global_batch={experiment.train.global_batch} has only {groups} "
            f"batch-norm groups of train.bn_group={experiment.train.bn_group}; use at most {groups} workers"
        )
    deadline = time.monotonic() + (_JOIN_TIMEOUT_S if joined else 0)
    told = False
    while True:
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        workers = asked or min(_usual_workers() or max(gpus, 1), groups)
        if workers <= (gpus or cpus):
            return workers, gpus > 0
        have = f"{gpus} GPUs" if gpus else f"{cpus} CPUs"
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"--workers {workers}: there are only {have}; ask for fewer, or for a larger cluster"
            )
        if not told:
            log.warning("waiting for the cluster to grow from %s to %d workers", have, workers)
            told = True
        time.sleep(2)


def _usual_workers() -> int | None:
    """What a cluster's set-up says of its size."""
    text = os.environ.get("KINERAY_WORKERS")
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"KINERAY_WORKERS={text}: not a number of workers; unset it, or pass --workers")
    return int(text)


def _fit(
    experiment: Experiment,
    launch: Launch,
    run: Run,
    folder: str,
    workers: int,
    use_gpu: bool,
    on_event: Callable[[Event], None],
) -> RunOutcome:
    import ray
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    mailbox = open_mailbox()
    settings = {
        "experiment": to_yaml(experiment),
        "folder": storage.absolute(folder),
        "manifest": experiment.data.manifest,
        "micro_batch": launch.micro_batch,
        "checkpoint_every": launch.checkpoint_every,
        "decoders": launch.decoders,
        "max_memory": launch.max_memory,
        "activation_checkpointing": launch.activation_checkpointing,
        "mailbox": mailbox,
    }
    # One CPU is reserved so that every worker finds a place; it uses its share of its host's.
    resources = {"CPU": 1.0, "GPU": 1.0} if use_gpu else {"CPU": 1.0}
    # For Ray's own bookkeeping; nothing that kineray needs is kept in it.
    scratch = tempfile.TemporaryDirectory(prefix="kineray-ray-", ignore_cleanup_errors=True)
    trainer = TorchTrainer(
        _worker,
        train_loop_config=settings,
        torch_config=TorchConfig(timeout_s=1800),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=resources,
            # GPUs of one host talk fastest; CPU workers would crowd one host and leave others idle.
            placement_strategy="PACK" if use_gpu else "SPREAD",
        ),
        run_config=ray.train.RunConfig(
            # Ray would silently continue a run of an old name. kineray's own checkpoints decide what
            # is resumed, so every launch is a new one to Ray.
            name=f"{run.name}-{time.time_ns():x}",
            storage_path=scratch.name,
            failure_config=ray.train.FailureConfig(max_failures=launch.max_failures),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    # In the main thread Ray would take Ctrl-C for itself and leave no word of it.
    fit = _in_thread(trainer.fit)
    try:
        while not fit.done():
            time.sleep(_DELIVERY_S)
            _deliver(mailbox, run, on_event)
        _deliver(mailbox, run, on_event)
        result = fit.result()
    except ray.train.TrainingFailedError as error:
        raise _user_error(error, run.name) from error
    finally:
        scratch.cleanup()
    returned = result.return_value
    if "error" in returned:
        kinds = {kind.__name__: kind for kind in (*_FINAL, StorageError)}
        raise kinds[returned["error"]](returned["message"])
    return RunOutcome(name=run.name, run_id=run.run_id, **returned)


def _worker(settings: dict[str, Any]) -> dict[str, Any]:
    """One rank. Returns plain values; rank 0's reach the driver."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    from kineray import training

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    cpus = max(1, cpus_of_this_node() // context.get_local_world_size())
    torch.set_num_threads(cpus)  # Ray sets OMP_NUM_THREADS to 1
    experiment = from_yaml(settings["experiment"])
    manifest, problem = None, None
    try:
        manifest = load_manifest(settings["manifest"])
        if not storage.exists(storage.join(settings["folder"], "experiment.yaml")):
            raise StorageError(f"{settings['folder']}: not shared between the hosts; use --storage s3://...")
    except KinerayError as error:
        problem = f"{error} (on host {socket.gethostname()})"
    problem = _first_of(problem, world_size)
    if problem or manifest is None:
        return {"error": "StorageError", "message": problem}
    mailbox = settings["mailbox"]
    host = socket.gethostname()
    mailbox.put.remote(("worker", rank, host, os.getpid()))
    try:
        result = training.train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=training.CheckpointStore(storage.join(settings["folder"], "checkpoints")),
            on_event=mailbox.put.remote,
            rank=rank,
            world_size=world_size,
            device=str(get_device()),
            micro_batch=settings["micro_batch"],
            checkpoint_every=settings["checkpoint_every"],
            decoders=settings["decoders"] or cpus,
            max_memory=settings["max_memory"],
            activation_checkpointing=settings["activation_checkpointing"],
            resume=True,  # the folder is this run's own: a worker group that replaces another goes on
        )
    except _FINAL as error:
        # Raised on every rank alike: returning ends the run, raising would make Ray start it again.
        return {"error": type(error).__name__, "message": str(error)}
    return {"step": result.step, "score": result.score, "best": result.best_uri, "last": result.last_uri}


def _first_of(problem: str | None, world_size: int) -> str | None:
    """The first problem of any rank, known to all of them."""
    if world_size == 1:
        return problem
    import torch.distributed as dist

    problems: list[str | None] = [None] * world_size
    dist.all_gather_object(problems, problem)
    return next((p for p in problems if p), None)


def _user_error(error: Exception, name: str) -> KinerayError:
    failures = getattr(error, "worker_failures", None) or {}
    causes = [cause for cause in failures.values() if cause is not None] or [error]
    root: BaseException = causes[0]
    for cause in causes:
        inner: BaseException | None = cause
        while inner is not None:
            if isinstance(inner, KinerayError):
                return inner
            root, inner = inner, getattr(inner, "cause", None) or inner.__cause__
    first_line = next(
        (line for line in str(root).strip().splitlines()[::-1] if line.strip()), type(root).__name__
    )
    log.debug("training failed", exc_info=error)
    return KinerayError(f"run {name} failed in a worker: {first_line.strip()}; --resume {name} continues it")


def _deliver(mailbox: Any, run: Run, on_event: Callable[[Event], None]) -> None:
    """Move events from the mailbox to the record and to the screen; this process alone writes both."""
    for event in drain(mailbox):
        try:
            record(run, event)
        except OSError as error:  # a full disk must not stop what still trains
            log.error("not recorded: %s", error)
        if not isinstance(event, tuple):
            on_event(event)


def _in_thread(function: Callable[[], Any]) -> "Future[Any]":
    """Call ``function`` in a thread that does not keep the process alive."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, name="kineray-fit", daemon=True).start()
    return future
