"""Training in the processes that torchrun has started, each of them one worker, without Ray.

Rank 0 does what the driver does under Ray: it checks, opens the record, writes every event to it, and says
what went wrong. Loop, checkpoints and record are the same, so a run that was begun in one way can be resumed
in the other.
"""

import json
import socket
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from kineray.config import to_yaml
from kineray.data.clips.decoding import usable_cores
from kineray.errors import ConfigError, KinerayError
from kineray.launched import Launch
from kineray.orchestration.mailbox import LOSS, record, record_checkpoints, record_goodput, record_system
from kineray.orchestration.messages import SystemMetrics, WorkerTask
from kineray.orchestration.peers import Peers
from kineray.orchestration.preparing import Prepared, open_run, prepare
from kineray.orchestration.process import set_up_process, shared_manifest, start_message
from kineray.orchestration.progress import visible_progress
from kineray.orchestration.records import OpenRecord, record_shape
from kineray.orchestration.signals import interruptible
from kineray.orchestration.startup import StartUp
from kineray.orchestration.system_metrics import measured
from kineray.storage import absolute, join
from kineray.training import ContinuedEvent, EndedEvent, Event, TrainResult

_NOT_THERE_YET = {"nothing_to_resume", "unknown_run"}


def train_launched(
    launch: Launch, start: StartUp, command: Iterable[str], **arguments: Any
) -> tuple[str, str, TrainResult]:
    """Train as one of the processes of ``launch``; returns the run's name and MLflow id, and its result.

    ``arguments``: those of ``prepare``. ``start`` gets the events, in the process of rank 0. An error is
    raised there, and the other processes end with exit code 2. Where torchrun has started all of them again,
    the run is resumed. Raises KinerayError.
    """
    if arguments["workers"] not in (None, launch.world_size):
        raise ConfigError(
            f"torchrun has started {launch.world_size}",
            code="other_workers",
            key="workers",
            value=arguments["workers"],
            remedy="leave out `workers`, and set --nproc-per-node and --nnodes of torchrun",
        )
    arguments = arguments | {"workers": launch.world_size}
    peers = Peers(launch)
    with interruptible(), visible_progress(), peers.watched():
        try:
            try:
                trained = _follow(peers) if launch.rank else _lead(peers, start, command, arguments)
            except Exception as error:
                time.sleep(0)  # the handler of a signal that came in the meantime runs here
                raise peers.failed(error) from error
        except KeyboardInterrupt:
            peers.killed()
            raise
        peers.finished()
    if not launch.rank:
        start(EndedEvent(start.goodput.result()))
    return trained


def _lead(
    peers: Peers, start: StartUp, command: Iterable[str], arguments: dict[str, Any]
) -> tuple[str, str, TrainResult]:
    launch = peers.launch
    start.wait_for("MLflow")
    prepared, opened = _open(launch, command, arguments)
    run = peers.run = opened.run
    start.goodput.continues(run.last_step(LOSS) or 0)
    peers.before_end = lambda: record_goodput(run, start.goodput.result(), run.last_step(LOSS) or 0)
    record_shape(run, prepared.shape(launch.world_size))
    if prepared.options.tensorboard:
        run.write_tensorboard()
    if prepared.start is not None:
        start(ContinuedEvent(prepared.start.line))
    task = WorkerTask(
        experiment=to_yaml(prepared.experiment),
        manifest=prepared.experiment.data.manifest or "",
        folder=absolute(join(prepared.storage, run.name)),
        run_id=run.run_id,
        options=prepared.options,
        plugins=(),  # every process has loaded its own: the command is the same
        changed=opened.changed,
    )
    peers.send(json.dumps([run.name, run.run_id, task.to_json()]))
    start.wait_for(f"{launch.world_size} processes")

    def deliver(event: Event) -> None:
        counted = start.counted(event)
        record(run, counted)
        start(counted)

    def measure(values: dict[str, float]) -> None:
        record_system(run, SystemMetrics(values, socket.gethostname()))

    peers.join()
    start.worker_started(launch.world_size)
    with measured(measure if prepared.options.system_metrics else None):
        result = _train(peers, task, deliver)
    if result.last_uri is not None:
        record_checkpoints(run, result.step, result.last_uri, result.best_uri, result.best)
    return run.name, run.run_id, result


def _follow(peers: Peers) -> tuple[str, str, TrainResult]:
    name, run_id, task = json.loads(peers.receive())
    peers.join()
    return name, run_id, _train(peers, WorkerTask.from_json(task), _ignore)


def _open(launch: Launch, command: Iterable[str], arguments: dict[str, Any]) -> tuple[Prepared, OpenRecord]:
    """Check a run and open its record; one that is started again is resumed, if it had begun."""
    again = {"resume": True, "extend": False, "fork": None}
    try:
        return _checked(arguments | (again if launch.attempt else {}), command)
    except KinerayError as error:
        if not launch.attempt or error.code not in _NOT_THERE_YET:
            raise
        return _checked(arguments, command)


def _checked(arguments: dict[str, Any], command: Iterable[str]) -> tuple[Prepared, OpenRecord]:
    from kineray.training.probe import probe

    prepared = prepare(**arguments)
    probe(prepared.experiment, prepared.data.preprocessing.labels, prepared.checkpoint)
    return prepared, open_run(prepared, command)


def _train(peers: Peers, task: WorkerTask, deliver: Any) -> TrainResult:
    """The loop of this process, as of a worker under Ray."""
    import torch

    from kineray.training import CheckpointStore, train
    from kineray.training.synchronise import Workers

    launch = peers.launch
    cores = max(1, usable_cores() // launch.local_world_size)
    experiment = set_up_process(task, cores)
    manifest = shared_manifest(task)
    started = start_message(launch.rank, launch.world_size)
    for message in Workers(launch.rank, launch.world_size).gather(started):
        if peers.run is not None:
            record(peers.run, message)
    return train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(join(task.folder, "checkpoints")),
        on_event=deliver,
        rank=launch.rank,
        world_size=launch.world_size,
        device=f"cuda:{launch.local_rank}" if torch.cuda.is_available() else "cpu",
        options=replace(task.options, decoders=task.options.decoders or cores),
        resume=True,
        changed=task.changed,
    )


def _ignore(_: Event) -> None:
    """Only rank 0 has events."""
